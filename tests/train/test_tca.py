"""TCA and mean pooling against independent computations, and the edges: padding, empty videos, odd shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.train.models.aggregators import AGGREGATORS, build_aggregator
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


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_padding_has_no_influence_whatever_it_holds(name: str) -> None:
    model = build_aggregator(name, {"dim": 16} | ({"num_heads": 4} if name == "tca" else {})).eval()
    features = inputs()
    longer = torch.cat([features, torch.full((3, 5, 16), math.nan)], dim=1)
    longer[1, 1:] = 1e30
    torch.testing.assert_close(model(longer, LENGTHS), model(features, LENGTHS), atol=1e-6, rtol=0)
    frames = model.encode(longer, LENGTHS)
    torch.testing.assert_close(frames[:, :7], model.encode(features, LENGTHS), atol=1e-6, rtol=0)
    assert frames.shape == (3, 12, 16)
    assert not frames[:, 7:].any() and not frames[1, 1:].any()


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_embeddings_and_frames_have_unit_length(name: str) -> None:
    model = build_aggregator(name, {"dim": 16} | ({"num_heads": 4} if name == "tca" else {})).eval()
    features = inputs() * 7
    torch.testing.assert_close(model(features, LENGTHS).norm(dim=1), torch.ones(3))
    lengths = model.encode(features, LENGTHS).norm(dim=2)
    torch.testing.assert_close(lengths, (torch.arange(7) < LENGTHS[:, None]).float())


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_a_video_without_frames_is_an_error_that_names_the_row(name: str) -> None:
    model = build_aggregator(name, {"dim": 16})
    with pytest.raises(ReelkinError, match="video 1 of this batch has no frame"):
        model(inputs(), torch.tensor([7, 0, 4]))


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


def test_dropout_of_a_video_depends_on_its_key_and_not_on_its_company() -> None:
    model = small(dropout=0.5).train()
    features, keys = inputs(), torch.tensor([11, 12, 13])
    together = model(features, LENGTHS, keys)
    torch.testing.assert_close(model(features[1:], LENGTHS[1:], keys[1:]), together[1:], atol=1e-6, rtol=0)
    padded = F.pad(features, (0, 0, 0, 9))
    torch.testing.assert_close(model(padded, LENGTHS, keys), together, atol=1e-6, rtol=0)
    assert not torch.allclose(model(features, LENGTHS, keys + 1), together, atol=1e-3)
    torch.manual_seed(0)
    first = model(features, LENGTHS)
    assert not torch.allclose(model(features, LENGTHS), first, atol=1e-3), "without keys, dropout is drawn anew"


def test_no_dropout_in_eval_mode() -> None:
    model = small(dropout=0.5)
    assert torch.equal(model(inputs(), LENGTHS), model(inputs(), LENGTHS, torch.tensor([1, 2, 3])))


def test_heads_that_do_not_divide_the_dimension_are_refused_with_the_fix() -> None:
    with pytest.raises(UsageError, match=r"20 dimensions cannot be shared by 8 heads: use --num-heads 10"):
        TCAConfig(dim=20)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("transformer", {}, "choose one of mean, tca"),
        ("tca", {"dim": 16, "depth": 2}, "has no field depth"),
        ("tca", {"dim": 16, "dropout": 1.0}, "dropout is 1.0"),
        ("tca", {"dim": 16, "num_layers": 0}, "num_layers is 0"),
    ],
)
def test_wrong_aggregators_are_refused_by_name(name: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_aggregator(name, fields)
