"""TCA against independent computations, its options, and where its weights start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reelkin.core.errors import UsageError
from reelkin.train.models.positions import sinusoidal_positions
from reelkin.train.models.tca import TCA, TCAConfig

LENGTHS = torch.tensor([7, 1, 4])


def small(init: str = "published", seed: int = 0, **fields: object) -> TCA:
    torch.manual_seed(seed)
    config = {"dim": 16, "num_heads": 4, "feedforward": 24, "init": init, **fields}
    return TCA(TCAConfig(**config)).eval()  # type: ignore[arg-type]


def inputs(seed: int = 1, frames: int = 7) -> torch.Tensor:
    return torch.randn(3, frames, 16, generator=torch.Generator().manual_seed(seed))


def layer_by_hand(weights: dict[str, np.ndarray], x_TD: np.ndarray, heads: int) -> np.ndarray:
    """A post-norm transformer layer in numpy, float64, one video without padding, head by head."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    dim = x_TD.shape[1]
    size = dim // heads
    projected = x_TD @ weights["self_attn.in_proj_weight"].T + weights["self_attn.in_proj_bias"]
    mixed = np.zeros_like(x_TD)
    for head in range(heads):
        q, k, v = (projected[:, part * dim + head * size : part * dim + (head + 1) * size] for part in range(3))
        score = np.exp(q @ k.T / math.sqrt(size))
        mixed[:, head * size : (head + 1) * size] = score / score.sum(1, keepdims=True) @ v
    x_TD = norm(x_TD + mixed @ weights["self_attn.out_proj.weight"].T + weights["self_attn.out_proj.bias"], "norm1")
    hidden = np.maximum(x_TD @ weights["linear1.weight"].T + weights["linear1.bias"], 0)
    return norm(x_TD + hidden @ weights["linear2.weight"].T + weights["linear2.bias"], "norm2")


@pytest.mark.parametrize("layers", [1, 2])
def test_equals_a_reference_written_out_video_by_video(layers: int) -> None:
    model = small(num_layers=layers).double()
    features = inputs().double()
    video, frames = model(features, LENGTHS), model.encode(features, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        x = features[row, :length].numpy()
        for number in range(layers):
            prefix = f"encoder.layers.{number}."
            weights = {
                key.removeprefix(prefix): value.numpy()
                for key, value in model.state_dict().items()
                if key.startswith(prefix)
            }
            x = layer_by_hand(weights, x, heads=4)
        mean = x.mean(0)
        np.testing.assert_allclose(video[row].detach(), mean / np.linalg.norm(mean), atol=1e-12)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(frames[row, :length].detach(), unit, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_equals_torchs_own_encoder_with_its_weights(training: bool) -> None:
    model = small(num_layers=2, dropout=0.0).train(training)
    reference = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
    ).train()  # training mode keeps torch off its fast path
    reference.load_state_dict(model.encoder.state_dict())
    features = inputs()
    hidden = torch.arange(7) >= LENGTHS[:, None]
    expected = F.normalize(reference(features, src_key_padding_mask=hidden), dim=-1).masked_fill(hidden[..., None], 0)
    torch.testing.assert_close(model.encode(features, LENGTHS), expected, atol=1e-5, rtol=1e-5)


def test_untrained_identity_is_the_mean_of_layer_normed_frames() -> None:
    model = small("identity", num_layers=3)
    features = inputs()
    normed = features
    for _ in range(6):  # two norms a layer; repeating one changes next to nothing
        normed = F.layer_norm(normed, (16,))
    for row, length in enumerate(LENGTHS.tolist()):
        expected = F.normalize(normed[row, :length].mean(0), dim=0)
        torch.testing.assert_close(model(features, LENGTHS)[row], expected, atol=1e-4, rtol=0)


def test_identity_starts_from_mean_pooling_and_published_does_not() -> None:
    features = F.normalize(inputs(), dim=-1)
    centred = F.normalize((features - features.mean(-1, keepdim=True))[:1].mean(1), dim=-1)
    assert (small("identity")(features, LENGTHS)[:1] * centred).sum().item() > 0.98
    assert (small("published")(features, LENGTHS)[:1] * centred).sum().item() < 0.98


def test_identity_still_learns_through_both_branches() -> None:
    model = small("identity")
    model(inputs(), LENGTHS)[:, 0].sum().backward()
    layer = model.encoder.layers[0]
    assert layer.linear2.weight.grad.abs().sum() > 0
    assert layer.self_attn.out_proj.weight.grad.abs().sum() > 0


def test_heads_that_do_not_divide_the_dimension_are_refused_with_the_fix() -> None:
    with pytest.raises(UsageError, match=r"20 dimensions cannot be shared by 8 heads: use --num-heads 10"):
        TCAConfig(dim=20)


def test_positions_follow_the_formula_at_unit_length() -> None:
    found = sinusoidal_positions(50, 8, dtype=torch.float64, device=torch.device("cpu"))
    for frame in (0, 1, 49):
        for pair in range(4):
            angle = frame / 10_000 ** (2 * pair / 8)
            assert found[frame, 2 * pair].item() == pytest.approx(math.sin(angle) / 2, abs=1e-12)
            assert found[frame, 2 * pair + 1].item() == pytest.approx(math.cos(angle) / 2, abs=1e-12)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert sinusoidal_positions(4, 5, dtype=torch.float32, device=torch.device("cpu")).shape == (4, 5)


@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
def test_the_order_of_frames_counts_with_positions_only(positions: str) -> None:
    model = small(positions=positions).double()
    features = inputs()[:1].double()
    forward, backward = (model(each, LENGTHS[:1]) for each in (features, features.flip(1)))
    assert torch.allclose(forward, backward, atol=1e-10) == (positions == "none")


def test_all_options_equal_torchs_own_layers() -> None:
    model = small(num_layers=2, dropout=0.0, positions="sinusoidal", final_norm=True, projection=6)
    reference = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True), 2, nn.LayerNorm(16),
        enable_nested_tensor=False,
    ).train()  # fmt: skip
    with torch.no_grad():
        model.position_scale.fill_(0.7)
        model.encoder.norm.weight.copy_(torch.arange(16) / 8)
    reference.load_state_dict(model.encoder.state_dict())
    positions = 0.7 * sinusoidal_positions(7, 16, dtype=torch.float32, device=torch.device("cpu"))
    hidden = torch.arange(7) >= LENGTHS[:, None]
    frames = reference(inputs() + positions, src_key_padding_mask=hidden) @ model.projection.weight.T
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(
            model(inputs(), LENGTHS)[row], F.normalize(frames[row, :length].mean(0), dim=0), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            model.encode(inputs(), LENGTHS)[row, :length],
            F.normalize(frames[row, :length], dim=1),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("projection", [10, 24])
def test_identity_with_all_options_starts_from_mean_pooling_too(projection: int) -> None:
    plain = small("identity")(inputs(), LENGTHS)
    model = small("identity", positions="sinusoidal", final_norm=True, projection=projection)
    found = model(inputs(), LENGTHS)
    assert found.shape == (3, projection)
    weight = model.projection.weight
    torch.testing.assert_close(found, F.normalize(plain @ weight.T, dim=1), atol=1e-4, rtol=0)
    if projection > 16:  # nothing is lost on the way to more dimensions
        torch.testing.assert_close(found @ found.T, plain @ plain.T, atol=1e-4, rtol=0)
