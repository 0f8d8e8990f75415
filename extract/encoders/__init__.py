"""Encoders: networks that turn uint8 RGB frames, or clips of frames, into descriptors."""

from .building import build_encoder, encoder_list, spec_from_info
from .encoder import Encoder
from .spec import Descriptor, EncoderSpec, Window
from .tuning import Precision

__all__ = [
    "Descriptor",
    "Encoder",
    "EncoderSpec",
    "Precision",
    "Window",
    "build_encoder",
    "encoder_list",
    "spec_from_info",
]
