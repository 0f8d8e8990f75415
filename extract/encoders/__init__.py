"""Encoders: networks that turn uint8 RGB frames, or clips of frames, into descriptors."""

from .building import Encoder, EncoderSpec, Precision, Window, build_encoder, encoder_list

__all__ = ["Encoder", "EncoderSpec", "Precision", "Window", "build_encoder", "encoder_list"]
