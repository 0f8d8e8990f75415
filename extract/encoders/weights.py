"""Where an encoder's weights come from: a published file (cache or download), a file of the user's, or random numbers.

Only tensors are read: ``.pth`` with ``weights_only=True``, or ``.safetensors``. Every choice ends with a SHA-256.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ...core.errors import ReelkinError, UsageError
from ...core.files import publishing, sha256_file
from ...core.seeds import generator

log = logging.getLogger("reelkin.extract")

CONNECT_SECONDS = 5.0
"""How long a silent server is waited for: a machine without network must fail in seconds, not minutes."""


@dataclass(frozen=True)
class Weights:
    """What was chosen.

    Attributes:
        name: for people and store.json: a file's name, or "random".
        path: the file, or None for random weights.
        sha256: of the file; for random weights it is set once they are made (`sha256_state`).
    """

    name: str
    path: Path | None
    sha256: str

    @property
    def random(self) -> bool:
        """True when nothing was learnt: the numbers are drawn from a fixed seed."""
        return self.path is None


RANDOM = Weights("random", None, "")


def file_weights(path: Path) -> Weights:
    """Weights in a file that the user names. Raises UsageError when it is no readable file."""
    try:
        return Weights(path.name, path, sha256_file(path))
    except OSError as error:
        raise UsageError(f"--weights {path}: {error.strerror}; give an existing file") from error


def published_weights(url: str, sha256_prefix: str) -> Weights:
    """The file at ``url`` from torch's cache (``$TORCH_HOME/hub/checkpoints``), downloaded into it when missing.

    Args:
        url: https address; the last part is the file's name.
        sha256_prefix: first hexadecimal digits that the file's SHA-256 must have.

    Raises:
        ReelkinError: the file can be neither found nor downloaded, or has another hash.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        log.info("downloading %s", url)
        try:
            _download(url, path, sha256_prefix)
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise ReelkinError(
                f"the weights {url} cannot be downloaded ({getattr(error, 'reason', error)}). Fetch the file elsewhere "
                f"and put it at {path} (or pass it with --weights FILE), or run with --weights random to try the "
                "pipeline without learnt weights"
            ) from error
    digest = sha256_file(path)
    if not digest.startswith(sha256_prefix):
        raise ReelkinError(f"{path} has SHA-256 {digest[:16]}..., expected {sha256_prefix}...; remove it and run again")
    return Weights(path.name, path, digest)


def _download(url: str, path: Path, sha256_prefix: str) -> None:
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response, publishing(path) as temporary:
        with open(temporary, "wb") as file:
            while piece := response.read(1 << 20):
                digest.update(piece)
                file.write(piece)
        if not digest.hexdigest().startswith(sha256_prefix):
            raise ReelkinError(
                f"{url} arrived with SHA-256 {digest.hexdigest()[:16]}..., not {sha256_prefix}...; nothing was kept"
            )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors; nothing in the file is run.

    A dict under "state_dict" or "model" is unwrapped, and a "module." in front of every name is dropped.

    Raises:
        UsageError: the file holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file makes the readers raise nearly anything
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        if _is_web_page(path):
            first_line = "it is a web page: the download gave an error or a login page instead of the file"
        raise UsageError(
            f"--weights {path} holds no state dict of tensors ({first_line}); expected .safetensors or a .pth written "
            "by torch.save(model.state_dict(), ...). A TorchScript file goes with --encoder torchscript"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"--weights {path} holds {type(state).__name__}, not a dict of tensors")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _is_web_page(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def load_state(module: nn.Module, state: dict[str, Tensor], where: str, *, unused: Sequence[str]) -> None:
    """Put a state dict into ``module``, wholly or not at all.

    Args:
        where: the file, named in errors.
        unused: prefixes of parameters that may be missing, superfluous or of another shape (classifiers, which no
            descriptor uses).

    Raises:
        UsageError: names or shapes differ, or a value is not finite; the message counts them and names the first.
    """
    own = module.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith(tuple(unused))}
    needed = {name for name in own if not name.startswith(tuple(unused)) and not name.endswith("num_batches_tracked")}
    missing = sorted(needed - set(state))
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(value.shape)} and should be {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if missing or extra or shapes:
        first = shapes[0] if shapes else f"missing {missing[0]}" if missing else f"unknown {extra[0]}"
        raise UsageError(
            f"--weights {where} does not fit this encoder: {len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(shapes)} of another shape ({first})"
        )
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise UsageError(f"--weights {where}: {len(broken)} tensors hold values that are not finite, first {broken[0]}")
    module.load_state_dict(state, strict=False)


def fill_with_random(module: nn.Module, name: str) -> str:
    """Fill a network with numbers that depend on ``name`` only: the same on every machine.

    Convolutions and linear layers get Kaiming-normal weights (fan out) and zero biases; normalisations stay the
    identity; what else is drawn at random by its library (tokens, positions) gets a normal of deviation 0.02.

    Returns:
        SHA-256 of the resulting state.
    """
    with torch.no_grad():
        for path, child in module.named_modules():
            if isinstance(child, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                shape = tuple(child.weight.shape)
                fan_out = shape[0] * int(np.prod(shape[2:]))
                draw = generator("random-weights", name, path).standard_normal(shape, dtype=np.float32)
                child.weight.copy_(torch.from_numpy(draw * np.float32(np.sqrt(2.0 / fan_out))))
                if child.bias is not None:
                    child.bias.zero_()
                continue
            for own, parameter in child.named_parameters(recurse=False):
                if parameter.numel() > 1 and bool((parameter != parameter.flatten()[0]).any()):
                    other = generator("random-weights", name, path, own).standard_normal(tuple(parameter.shape))
                    parameter.copy_(torch.from_numpy(other * 0.02))
    return sha256_state(module)


def sha256_state(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
