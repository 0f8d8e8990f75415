"""Which device something is computed on: the CPU or a GPU that is there."""

from __future__ import annotations

import torch

from .errors import UsageError


def choose_device(wanted: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """The device of one rank.

    Args:
        wanted: "cpu", "cuda", or "auto": one GPU per rank if there are any, else the CPU.
        local_rank, local_size: the rank's number among those on this host, and how many these are.

    Raises:
        UsageError: it is none of these words, or there are fewer GPUs than ranks.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device: 'auto', 'cpu' or 'cuda', got {wanted!r}")
    available = _num_gpus()
    if wanted == "cpu" or (wanted == "auto" and not available):
        return torch.device("cpu")
    if local_size > available:
        raise UsageError(
            f"device: {local_size} ranks on this host but {available} GPUs; start at most {available} ranks per host, "
            "or choose device 'cpu' (where there is no flag for it: CUDA_VISIBLE_DEVICES= in front of the command)"
        )
    return torch.device("cuda", local_rank)


def usable_device(device: torch.device | str) -> torch.device:
    """The device, once it is known that this machine has it.

    Args:
        device: the CPU or a CUDA GPU, as torch names them ("cpu", "cuda", "cuda:1").

    Raises:
        UsageError: it is another kind of device (of which "meta" holds no values), or there is no such GPU.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:  # torch's list of all that it has names for helps nobody
        raise UsageError(f"device: 'cpu' or 'cuda', got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"device: 'cpu' or 'cuda', got {str(found)!r}")
    if found.type == "cuda" and (found.index or 0) >= _num_gpus():
        raise UsageError(f"device: {str(found)!r}, but this process sees {_num_gpus()} GPUs; choose 'cpu'")
    return found


def _num_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
