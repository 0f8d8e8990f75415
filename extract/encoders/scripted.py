"""TorchScript encoders: a network that comes as one file with its own code (SSCD, ISC winners, exported models).

Loading such a file runs code from it. So only a file that the user names is loaded, and its SHA-256 is recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.errors import UsageError
from .frames import InputKind, to_network_input


def load_scripted(path: Path, device: torch.device) -> nn.Module:
    """Load a TorchScript archive for inference.

    Raises:
        UsageError: the file is no TorchScript archive, or needs operators that this torch lacks.
    """
    try:
        with warnings.catch_warnings():
            # torch names torch.export as the successor; published descriptors come as TorchScript.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"--weights {path} cannot be loaded as TorchScript ({_last_line(error)}); the file must come from "
            "torch.jit.script(model).save(...) or torch.jit.trace(...).save(...)"
        ) from error


def find_input(
    module: nn.Module, path: Path, side: int, kinds: Sequence[InputKind], device: torch.device
) -> tuple[InputKind, int]:
    """Find out what a file takes and gives, with two frames of noise.

    Args:
        side: height and width of the frames in pixels.
        kinds: what to try, in this order.

    Returns:
        The first input kind that works, and the output's dimension.

    Raises:
        UsageError: no input kind works, or the output is not [N, D] float, or not finite.
    """
    frames = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    refusals = []
    for kind in kinds:
        try:
            with torch.inference_mode():
                output = module(to_network_input(frames, kind, device))
        except Exception as error:  # the file's own code may raise anything
            refusals.append(f"{kind}: {_last_line(error)}")
            continue
        found = checked_output(output, 2, f"--weights {path}")
        if not torch.isfinite(found).all():
            raise UsageError(
                f"--weights {path} gives values that are not finite for frames of noise ({kind}); is it whole?"
            )
        return kind, found.shape[1]
    raise UsageError(
        f"--weights {path} takes frames of {side} x {side} in no known form ({'; '.join(refusals)}). The file must "
        "take [N, 3, H, W], uint8 or ImageNet-normalised float32; try another --size or --crop"
    )


def checked_output(output: object, num_frames: int, where: str) -> Tensor:
    """The network's output as float32 [N, D]. Raises UsageError when it is something else."""
    right = isinstance(output, Tensor) and output.is_floating_point() and output.ndim == 2 and len(output) == num_frames
    if not isinstance(output, Tensor) or not right:
        what = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"{where} returns {what} for {num_frames} frames; an encoder returns float [{num_frames}, D]")
    return output.float()


def _last_line(error: BaseException) -> str:
    # TorchScript errors are long traces whose last line says what happened.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
