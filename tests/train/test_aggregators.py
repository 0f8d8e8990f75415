"""Every aggregator at its edges: padding, empty videos, one frame, keys of dropout, flags that have no effect."""

from __future__ import annotations

import copy
import dataclasses
import math
import typing
from typing import Any

import pytest
import torch

from reelkin.core.engine.batch_norm import batch_norms, running_statistics
from reelkin.core.errors import ReelkinError, UsageError
from reelkin.train.models.aggregators import AGGREGATORS, AggregatorSettings, build_aggregator, out_dim

LENGTHS = torch.tensor([7, 1, 4])
SMALL: dict[str, dict[str, Any]] = {
    "tca": {"num_heads": 4, "feedforward": 24, "projection": 10, "positions": "sinusoidal", "final_norm": True},
    "netvlad": {"num_clusters": 3, "output_dim": 10},
    "nextvlad": {"num_clusters": 3, "output_dim": 10, "groups_of_channels": 4},
    "lstm": {"output_dim": 10},
    "gru": {"output_dim": 10},
    "mean": {},
}
NAMES = sorted(AGGREGATORS)
TRAINED = [name for name in NAMES if name != "mean"]


def small(name: str, **fields: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_aggregator(name, {"dim": 16, **SMALL[name], **fields}).double()
    for norm in batch_norms(model):  # as after some training
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(std=0.2)
        norm.running_var.uniform_(0.5, 2)
    return model.eval()


def inputs(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_cases_and_the_flag_name_every_aggregator() -> None:
    assert set(SMALL) == set(AGGREGATORS)
    choices = typing.get_type_hints(AggregatorSettings)["aggregator"]
    assert set(typing.get_args(choices)) == set(AGGREGATORS)


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_influence_whatever_it_holds(name: str) -> None:
    model = small(name)
    longer = torch.cat([inputs(), torch.full((3, 5, 16), math.nan)], dim=1)
    longer[1, 1:] = 1e30
    torch.testing.assert_close(model(longer, LENGTHS), model(inputs(), LENGTHS), atol=1e-12, rtol=0)
    frames = model.encode(longer, LENGTHS)
    torch.testing.assert_close(frames[:, :7], model.encode(inputs(), LENGTHS), atol=1e-12, rtol=0)
    assert frames.shape[:2] == (3, 12)
    assert not frames[:, 7:].any() and not frames[1, 1:].any()


@pytest.mark.parametrize("name", TRAINED)
def test_padding_has_no_influence_on_training_either(name: str) -> None:
    keys = torch.tensor([5, 6, 7])
    longer = torch.cat([inputs(), torch.full((3, 5, 16), math.nan)], dim=1)
    seen = []
    for features in (inputs(), longer):
        model = small(name).train()
        model(features, LENGTHS, keys)[:, 0].sum().backward()
        seen.append([parameter.grad for parameter in model.parameters()] + list(model.buffers()))
    for short, long in zip(*seen, strict=True):
        torch.testing.assert_close(short, long, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_and_frames_have_unit_length_and_the_width_announced(name: str) -> None:
    model = small(name)
    video, frames = model(inputs() * 7, LENGTHS), model.encode(inputs() * 7, LENGTHS)
    assert video.shape == (3, out_dim(model)) and out_dim(model) == (16 if name == "mean" else 10)
    torch.testing.assert_close(video.norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(frames.norm(dim=2), (torch.arange(7) < LENGTHS[:, None]).double())


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_embedded_alike_in_any_company(name: str) -> None:
    model = small(name)
    alone = torch.cat([model(inputs()[row : row + 1, :length], torch.tensor([length]))
                       for row, length in enumerate(LENGTHS.tolist())])  # fmt: skip
    torch.testing.assert_close(alone, model(inputs(), LENGTHS), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_video_without_frames_is_an_error_that_names_the_row(name: str) -> None:
    for call in (small(name), small(name).encode):
        with pytest.raises(ReelkinError, match="video 1 of this batch has no frame"):
            call(inputs(), torch.tensor([7, 0, 4]))


@pytest.mark.parametrize("name", NAMES)
def test_no_videos_give_no_embeddings(name: str) -> None:
    model = small(name)
    assert model(inputs()[:0], LENGTHS[:0]).shape == (0, out_dim(model))


@pytest.mark.parametrize("name", TRAINED)
def test_every_weight_gets_a_gradient(name: str) -> None:
    model = small(name).train()
    (model(inputs(), LENGTHS, torch.arange(3)) * torch.randn(3, out_dim(model))).sum().backward()
    for key, parameter in model.named_parameters():
        if key not in ("fc1.bias", "fc2.bias"):  # the batch norms after them take a shift of all videos out again
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, key


@pytest.mark.parametrize("name", TRAINED)
def test_dropout_of_a_video_depends_on_its_key_and_not_on_its_company(name: str) -> None:
    model, keys = small(name, dropout=0.5).train(), torch.tensor([11, 12, 13])
    with running_statistics(model):
        together = model(inputs(), LENGTHS, keys)
        torch.testing.assert_close(model(inputs()[1:], LENGTHS[1:], keys[1:]), together[1:], atol=1e-12, rtol=0)
        assert not torch.allclose(model(inputs(), LENGTHS, keys + 1), together, atol=1e-3)
        torch.manual_seed(0)
        first = model(inputs(), LENGTHS)
        assert not torch.allclose(model(inputs(), LENGTHS), first, atol=1e-3), "without keys, dropout is drawn anew"


@pytest.mark.parametrize("name", NAMES)
def test_eval_mode_drops_nothing_and_leaves_weights_and_generator_alone(name: str) -> None:
    model = small(name)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    assert torch.equal(model(inputs(), LENGTHS), model(inputs(), LENGTHS, torch.tensor([1, 2, 3])))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_is_near_float32(name: str) -> None:
    model = small(name, dropout=0.0).float().train()
    exact = copy.deepcopy(model)(inputs().float(), LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(inputs().float(), LENGTHS)
    found[:, 0].float().sum().backward()
    assert (found.float() * exact).sum(1).min() > (0.9 if "vlad" in name else 0.995)


def test_settings_pass_what_the_aggregator_has_and_keep_its_defaults() -> None:
    config = AggregatorSettings(aggregator="lstm", num_layers=3, output_dim=12).make_aggregator(16).config
    assert dataclasses.asdict(config) == {"dim": 16, "output_dim": 12, "num_layers": 3, "dropout": 0.2}
    assert AggregatorSettings().make_aggregator(16).config.dropout == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"aggregator": "netvlad", "positions": "sinusoidal"},
            "--positions sinusoidal has no effect with --aggr.* netv",
        ),
        ({"num_clusters": 3}, "--num-clusters 3 has no effect with --aggregator tca"),
        ({"aggregator": "bert"}, "no aggregator 'bert'; choose one of gru, lstm, mean, netvlad, nextvlad, tca"),
    ],
)
def test_settings_without_effect_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AggregatorSettings(**fields)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("transformer", {}, "choose one of gru, lstm, mean, netvlad, nextvlad, tca"),
        ("tca", {"depth": 2}, "has no field depth"),
        ("tca", {"dropout": 1.0}, "dropout is 1.0"),
        ("tca", {"num_layers": 0}, "num_layers is 0"),
        ("tca", {"positions": "learnt"}, "positions is 'learnt'; choose none or sinusoidal"),
        ("tca", {"projection": -1}, "projection is -1"),
        ("netvlad", {"num_clusters": 0}, "num_clusters is 0"),
        ("netvlad", {"output_dim": 7}, "embedding of 7 dimensions is too small .* --output-dim 8 or more"),
        ("nextvlad", {"groups_of_channels": 5}, "32, cannot be shared by 5 groups: use --groups-of-channels 16"),
        ("gru", {"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_wrong_aggregators_are_refused_by_name(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_aggregator(name, {"dim": 16, **fields})
