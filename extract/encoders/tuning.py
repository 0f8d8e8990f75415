"""Inference at the machine's speed: number formats, folded batch norms, fused graphs, torch.compile.

What is done, by device. On CPUs a network that sees pictures of one size becomes a graph on oneDNN's fused kernels
(`graphs`); where that is impossible, and for pictures of any size, it runs as it is, channels last, batch norms folded
(TorchScript: frozen). On GPUs it runs as it is, channels last, with its weights in half precision. Each result is
compared with the plain float32 network on made-up pictures before it is used.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...core.errors import UsageError
from . import graphs

log = logging.getLogger("reelkin.extract")

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Really = Literal["float32", "bfloat16", "float16"]

HALF_COSINE = 0.9999
"""What "auto" demands of half precision on each made-up picture. Dark and flat pictures of real videos are up to ten
times farther off than these, so this keeps them above 0.999."""

SAME_COSINE = 0.999999
"""What a float32 graph must reach: it only computes in another order."""

REUSED_BYTES = 30 << 20
"""Largest tensor in a call on CPUs. glibc keeps blocks up to 32 MiB for the next use; larger ones come from the system
page by page, each time anew, which was measured to take longer than a convolution that writes them."""

COMPILED_BATCH = {4: 16, 5: 4}
"""Inputs per call of a compiled network, by the dimensions of its input: frames, clips."""


def native_half(device: torch.device) -> Really:
    """The half precision that ``device`` computes at full speed: bfloat16 where it has it, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return "bfloat16" if found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16") else "float32"
    return "float32"


def settle_precision(asked: Precision, device: torch.device) -> Really:
    """The number format to try.

    Raises:
        UsageError: float16 on a processor, which would emulate it.
    """
    if asked == "float16" and device.type != "cuda":
        raise UsageError(f"--precision float16 is for GPUs, and this is {device}; use auto, bfloat16 or float32")
    if asked == "auto":
        return native_half(device)
    if asked == "bfloat16" and device.type == "cpu" and native_half(device) == "float32":
        log.warning("this processor has no bfloat16 arithmetic and would emulate it slowly: float32 is used")
        return "float32"
    return asked


@dataclass(frozen=True)
class Tuned:
    """A network ready to run.

    Attributes:
        precision: in which convolutions and linear layers are computed.
        how: "graph", "compiled", "frozen" (TorchScript) or "eager".
        shape: inputs [N, *shape] take the fast way; None: all of them do.
        batch: inputs per call, the last ones filled up with zeros; 0: as many as come.
        most: of inputs in a call of ``fast``; 0: as many as come.
    """

    fast: Callable[[Tensor], Tensor]
    general: Callable[[Tensor], Tensor]
    precision: Really
    how: str
    shape: tuple[int, ...] | None = None
    batch: int = 0
    most: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """[N, ...] as the network takes it -> what it gives."""
        with torch.inference_mode():
            if self.shape is not None and tuple(x.shape[1:]) != self.shape:
                return self.general(x)
            if self.batch:
                return self._in_full_batches(x)
            if self.most and len(x) > self.most:
                parts = -(-len(x) // self.most)  # about equally large, so that none is small
                return torch.cat([self.fast(part) for part in x.tensor_split(parts)])
            return self.fast(x)

    def _in_full_batches(self, x: Tensor) -> Tensor:
        parts = []
        for part in x.split(self.batch):
            filled = part
            if len(part) < self.batch:
                layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
                filled = x.new_zeros((self.batch, *x.shape[1:])).contiguous(memory_format=layout)
                filled[: len(part)] = part
            parts.append(self.fast(filled)[: len(part)].clone())
        return torch.cat(parts)


def tune(
    network: nn.Module, example: Tensor, asked: Precision = "auto", *, one_size: bool = True, compile: bool = False
) -> Tuned:
    """Make a network fast.

    Args:
        network: in evaluation mode, on the device; Python or TorchScript. Its batch norms are folded in place.
        example: [n >= 3, ...] inputs as they will come, made from varied pictures; they judge the precision.
        asked: "auto" takes half precision where the device has it and `HALF_COSINE` is reached, else float32.
        one_size: nearly all inputs will have the example's size.
        compile: let torch.compile make the code; takes a minute, and needs a C++ compiler on CPUs.

    Raises:
        UsageError: the network gives values that are not finite, or the precision does not fit the device.
    """
    device = example.device
    scripted = isinstance(network, torch.jit.ScriptModule)
    with torch.inference_mode():
        expected = network(example).float()
    if not torch.isfinite(expected).all():
        raise UsageError("the encoder gives values that are not finite: its weights are damaged or do not belong to it")
    if isinstance(network, torch.jit.ScriptModule):
        network = _frozen(network)
    else:
        network = network.to(memory_format=torch.channels_last if example.ndim == 4 else torch.channels_last_3d)  # type: ignore[call-overload]
        network = fold_batch_norms(network, example[:1])
    half = settle_precision(asked, device)
    for precision in dict.fromkeys((half, "float32")):
        least = SAME_COSINE if precision == "float32" else HALF_COSINE if asked == "auto" else -1.0
        for make in _ways(network, example, scripted, one_size, compile):
            tuned = make(precision)
            if tuned is None:
                continue
            cosine = _least_cosine(tuned, example, expected)
            if cosine >= least:
                return tuned
            log.debug("%s in %s: cosine %.6f with the plain network, below %.6f", tuned.how, precision, cosine, least)
            if precision != "float32":
                break  # the other ways round just as much
    return Tuned(network, network, "float32", "eager")


def _ways(
    network: nn.Module, example: Tensor, scripted: bool, one_size: bool, compile: bool
) -> list[Callable[[Really], Tuned | None]]:
    """What can be tried, the fastest first."""
    shape = tuple(example.shape[1:])
    graph = None
    if one_size and example.device.type == "cpu":
        try:
            graph = graphs.capture(network, example[:3], scripted=scripted)
        except graphs.CannotTrace as error:
            log.debug("no graph: %s", error)

    def traced(precision: Really) -> Tuned | None:
        if graph is None:
            return None
        made = copy.deepcopy(graph)
        if precision != "float32" and not graphs.halve(made, getattr(torch, precision)):
            return None
        general = _casting(network, precision)
        if compile:
            made = graphs.drop_idle_casts(made, example[:2])
            fast = torch.compile(made, dynamic=False, options={"freezing": True})
            return Tuned(fast, general, precision, "compiled", shape, COMPILED_BATCH[example.ndim])
        graphs.fuse(made)
        made = graphs.drop_idle_casts(made, example[:2])
        most = max(1, REUSED_BYTES // made.meta["largest_bytes"])
        return Tuned(made, general, precision, "graph", shape, most=most)

    def as_it_is(precision: Really) -> Tuned:
        run = _casting(network, precision)
        if compile and not scripted:
            fast = torch.compile(run, dynamic=False)
            return Tuned(fast, run, precision, "compiled", shape if one_size else None, COMPILED_BATCH[example.ndim])
        return Tuned(run, run, precision, "frozen" if scripted else "eager")

    return [traced, as_it_is]


def _casting(network: nn.Module, precision: Really) -> Callable[[Tensor], Tensor]:
    if precision == "float32":
        return network
    dtype = getattr(torch, precision)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype):
            return network(x)

    return run


def _frozen(network: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    # folds batch norms too; a file that is frozen already, or has methods that freezing loses, stays as it is
    try:
        return torch.jit.freeze(network)
    except RuntimeError:
        return network


def _least_cosine(tuned: Tuned, example: Tensor, expected: Tensor) -> float:
    found = tuned(example).float()
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return -2.0
    # rows of zeros agree with rows of zeros
    cosine = nn.functional.cosine_similarity(found, expected)
    return float(torch.where((found == expected).all(dim=1), torch.ones_like(cosine), cosine).min())


def fold_batch_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """Merge every batch norm that directly follows a convolution into it, in place; outputs stay equal up to rounding.

    Which ones these are is observed in one forward pass: the batch norm's input is the very tensor that the convolution
    gave, and each of the two ran once. If something else reads that tensor too, the outputs would differ; then nothing
    is folded.

    Args:
        network: in evaluation mode.
        example: [n, ...] an input.

    Returns:
        ``network``, or an unfolded copy of it where folding would change the outputs.

    Raises:
        ValueError: the network is in training mode, where a batch norm depends on its batch.
    """
    if network.training:
        raise ValueError("batch norms can be folded in evaluation mode only; call .eval() first")
    pairs, expected = _norms_after_convolutions(network, example)
    if not pairs:
        return network
    untouched = {name: network.get_submodule(name) for pair in pairs.items() for name in pair}
    for norm, conv in pairs.items():
        network.set_submodule(conv, fuse_conv_bn_eval(untouched[conv], untouched[norm]))  # type: ignore[type-var, arg-type]
        network.set_submodule(norm, nn.Identity())
    with torch.inference_mode():
        found = network(example)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        for name, module in untouched.items():
            network.set_submodule(name, module)
    return network


def _norms_after_convolutions(network: nn.Module, example: Tensor) -> tuple[dict[str, str], Tensor]:
    """The convolution of each batch norm that reads its output, where each runs once; and the network's output."""
    produced: dict[int, tuple[Tensor, str]] = {}
    pairs: dict[str, str] = {}
    calls: Counter[str] = Counter()
    handles = []

    def after_convolution(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            produced[id(output)] = (output, name)  # held, so that the id stays its own

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if id(inputs[0]) in produced:
                pairs[name] = produced[id(inputs[0])][1]

        return hook

    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            handles.append(module.register_forward_hook(after_convolution(name)))
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and module.running_var is not None:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    with torch.inference_mode():
        output = network(example)
    for handle in handles:
        handle.remove()
    return {norm: conv for norm, conv in pairs.items() if calls[norm] == calls[conv] == 1}, output


def check_pictures(count: int, height: int, width: int, length: int = 1) -> Tensor:
    """Made-up pictures that judge a precision: smooth, noisy, dark and flat ones; the same on every machine.

    Returns:
        uint8 [count, height, width, 3], or [count, length, height, width, 3] clips that move for a length above 1.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(count, 3, height, width + 8 * (length - 1))
    for grid in (4, 8, 16, 32, 64):
        noise = torch.randn(count, 3, grid, grid, generator=generator)
        pictures += nn.functional.interpolate(noise, pictures.shape[2:], mode="bilinear") * (4 / grid) ** 0.5
    pictures = pictures / pictures.std() * 50 + 128
    pictures[1::4] += torch.randn(pictures[1::4].shape, generator=generator) * 40
    pictures[2::4] *= 0.15
    pictures = pictures.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    if length == 1:
        return pictures.contiguous()
    return torch.stack([pictures[:, :, 8 * i : 8 * i + width] for i in range(length)], dim=1)
