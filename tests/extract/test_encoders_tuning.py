"""Tuned networks give what plain ones give: folded batch norms, fused graphs, half precision, partial batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reelkin.core.errors import UsageError
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.encoders import tuning as tuning_module
from reelkin.extract.encoders.graphs import CannotTrace, capture, fuse, halve
from reelkin.extract.encoders.tuning import Tuned, check_pictures, fold_batch_norms, settle_precision, tune

CPU = torch.device("cpu")
HAS_BFLOAT16 = tuning_module.native_half(CPU) == "bfloat16"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Small(nn.Module):
    """What the passes look for: paddings, batch norms, residual sums, several activations, groups, a linear layer."""

    def __init__(self, convolution: type[nn.Module] = nn.Conv2d, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.first = convolution(3, 8, 3, stride=2, bias=False)
        self.first_norm = norm(8)
        self.depthwise = convolution(8, 8, 3, padding=1, groups=8)
        self.middle_norm = norm(8)
        self.second = convolution(8, 8, 1)
        self.second_norm = norm(8)
        self.third = convolution(8, 16, 3, padding=1)
        self.linear = nn.Linear(16, 5)
        self.pads = [0, 1] * (2 if convolution is nn.Conv2d else 3)
        generator = torch.Generator().manual_seed(0)
        for module in self.modules():
            if isinstance(module, norm):
                module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr, operator]
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.4, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, self.pads)  # to one side only, as TensorFlow's "same" does
        x = torch.relu(self.first_norm(self.first(x)))
        y = nn.functional.hardtanh(self.middle_norm(self.depthwise(x)), 0.0, 6.0)
        x = torch.relu(x + self.second_norm(self.second(y)))
        x = nn.functional.hardswish(self.third(x))
        x = x / x.norm(2, 1, keepdim=True).clamp_min(1e-12).expand_as(x)
        return self.linear(x.flatten(2).amax(2))


def inputs(count: int = 4, side: int = 24) -> Tensor:
    return check_pictures(count, side, side).permute(0, 3, 1, 2).float() / 128 - 1


def targets(graph: torch.fx.GraphModule) -> set[str]:
    return {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("scripted", [False, True])
def test_a_fused_graph_gives_what_the_network_gives_for_any_number_of_inputs(scripted: bool) -> None:
    network: nn.Module = Small().eval()
    x = inputs(7).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = network(x)
        prepared = torch.jit.freeze(torch.jit.script(network)) if scripted else fold_batch_norms(network, x[:1])
        graph = fuse(capture(prepared, x[:3], scripted=scripted))
        for count in (1, 2, 3, 7):
            np.testing.assert_allclose(graph(x[:count]), expected[:count], atol=1e-5)
    left = targets(graph)
    assert not any(name in str(left) for name in ("constant_pad", "batch_norm", "relu", "aten.convolution", "expand"))
    assert any("binary" in name for name in left)  # the residual sum is part of a convolution


def test_a_network_that_looks_at_values_is_left_as_it_is() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)) * (2 if float(x.max()) > 0.5 else 1)

    class CountsInputs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)) if len(x) > 2 else x.amax(dim=(2, 3))

    for network in (Looks(), CountsInputs()):
        with pytest.raises(CannotTrace):
            capture(network, inputs(3))
        tuned = tune(network.eval(), inputs(4))
        assert tuned.how == "eager"
        with torch.inference_mode():
            np.testing.assert_array_equal(tuned(inputs(4) / 4), network(inputs(4) / 4))


@pytest.mark.parametrize("convolution,norm,shape", [(nn.Conv2d, nn.BatchNorm2d, ()), (nn.Conv3d, nn.BatchNorm3d, (6,))])
def test_batch_norms_of_any_network_are_folded(convolution: type, norm: type, shape: tuple[int, ...]) -> None:
    network = Small(convolution, norm).eval()
    x = torch.randn(2, 3, *shape, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(x)
        folded = fold_batch_norms(network, x[:1])
        np.testing.assert_allclose(folded(x), expected, atol=1e-5)
    assert not any(isinstance(module, norm) for module in folded.modules())
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batch_norms(Small().train(), x)


def test_a_batch_norm_is_kept_where_its_convolutions_output_is_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(1.0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.convolution(x)
            return (x * self.norm(x)).mean(dim=(2, 3))

    network = Twice().eval()
    with torch.inference_mode():
        expected = network(inputs())
        found = fold_batch_norms(network, inputs(1))(inputs())
    np.testing.assert_array_equal(found, expected)
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_half_precision_reaches_every_product_and_leaves_other_networks_alone() -> None:
    network = fold_batch_norms(Small().eval(), inputs(1))
    graph = capture(network, inputs(3))
    assert halve(graph, torch.bfloat16)
    fuse(graph)
    with torch.inference_mode():
        found, expected = graph(inputs()), network(inputs())
    assert found.dtype == torch.bfloat16
    assert 0.99 < float(torch.cosine_similarity(found.float(), expected).min()) < 1
    assert not halve(capture(nn.AvgPool2d(2), inputs(3)), torch.bfloat16)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16 arithmetic")
def test_auto_takes_half_precision_only_where_features_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune(Small().eval(), inputs(), "bfloat16").precision == "bfloat16"
    monkeypatch.setattr(tuning_module, "HALF_COSINE", 0.9)
    assert tune(Small().eval(), inputs()).precision == "bfloat16"
    monkeypatch.setattr(tuning_module, "HALF_COSINE", 0.9999999)
    tuned = tune(Small().eval(), inputs())
    assert (tuned.precision, tuned.how) == ("float32", "graph")


def test_processors_without_bfloat16_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert settle_precision("auto", CPU) == settle_precision("bfloat16", CPU) == "float32"
    assert tune(Small().eval(), inputs()).precision == "float32"
    with pytest.raises(UsageError, match="float16 is for GPUs"):
        settle_precision("float16", CPU)


def test_pictures_of_another_size_and_whole_pictures_are_right_too(tmp_path: Path) -> None:
    network = Small().eval()
    with torch.inference_mode():
        wide = torch.randn(2, 3, 24, 40)
        expected = network(wide)
        np.testing.assert_allclose(tune(Small().eval(), inputs(), "float32")(wide), expected, atol=1e-5)
        any_size = tune(Small().eval(), inputs(), "float32", one_size=False)
        np.testing.assert_allclose(any_size(wide), expected, atol=1e-5)
    assert any_size.how == "eager"


def test_the_same_batch_gives_the_same_bits_and_partial_batches_are_right() -> None:
    encoder = build_encoder(EncoderSpec("torchvision:resnet18", "random", 64, 64))
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    whole = encoder(frames)
    np.testing.assert_array_equal(encoder(frames), whole)
    for part in (frames[:1], frames[4:9]):
        found = encoder(part)
        reference = whole[:1] if len(part) == 1 else whole[4:9]
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2, atol=1e-5)
        assert (found * reference).sum(axis=1).min() > 4 * 0.9999


def test_fixed_batches_are_filled_up_and_cut_again() -> None:
    seen = []

    def double(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x.mean(dim=(2, 3)) * 2

    x = torch.arange(10.0).reshape(5, 2, 1, 1)
    found = Tuned(double, double, "float32", "compiled", batch=3)(x)
    assert seen == [(3, 2, 1, 1)] * 2
    np.testing.assert_array_equal(found, x.flatten(1) * 2)


@pytest.mark.slow
def test_torch_compile_gives_what_the_network_gives() -> None:
    with torch.inference_mode():
        expected = Small().eval()(inputs(5))
    tuned = tune(Small().eval(), inputs(), "float32", compile=True)
    assert tuned.how == "compiled"
    np.testing.assert_allclose(tuned(inputs(5)), expected, atol=1e-5)


def test_networks_that_give_no_numbers_are_refused(tmp_path: Path) -> None:
    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean(dim=(2, 3)) * float("nan")

    path = tmp_path / "nan.pt"
    torch.jit.script(Nan()).save(str(path))
    with pytest.raises(UsageError, match="not finite for frames of noise"):
        build_encoder(EncoderSpec("torchscript", str(path), 64, 64))
    with pytest.raises(UsageError, match="not finite: its weights are damaged"):
        tune(Nan(), inputs())
