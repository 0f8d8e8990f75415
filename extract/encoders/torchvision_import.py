"""The one place that imports torchvision, so that it also works beside the CPU build of torch.

The torchvision wheels on PyPI are built against CUDA torch. Beside a CPU torch their compiled library does not load,
and the import then fails while it registers shapes and gradients for operators that are not there. Reelkin needs none
of these operators (only model definitions), so the two registering modules are replaced by empty ones first.
Held to the version in ``TESTED``: the names of these modules are private to torchvision.
"""

from __future__ import annotations

import sys
import types

import torch

from ...core.errors import ReelkinError

TESTED = "0.28.0"
"""torchvision that matches torch 2.13.0."""

_REGISTERING = ("torchvision._meta_registrations", "torchvision._autograd_registrations")


def import_torchvision() -> types.ModuleType:
    """Import torchvision, beside CPU and GPU builds of torch alike.

    Returns:
        The module. On CPU torch its compiled operators (``ops.nms`` and the like) raise when called; models, weights
        and ``transforms.v2`` work.

    Raises:
        ReelkinError: torchvision is missing or does not match the installed torch; the message names both versions.
    """
    on_gpu_build = torch.version.cuda is not None or torch.version.hip is not None
    if "torchvision" not in sys.modules and not on_gpu_build:
        for name in _REGISTERING:
            sys.modules.setdefault(name, types.ModuleType(name))
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise ReelkinError(
            f"torchvision cannot be imported beside torch {torch.__version__}: {error}. The pair torch 2.13.0 and "
            f"torchvision {TESTED} is tested; run: pip install --no-deps torchvision=={TESTED}"
        ) from error
    return torchvision
