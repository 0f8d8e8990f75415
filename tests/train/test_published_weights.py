"""Published weights become a model that computes what torch's own layers compute with them; others are refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reelkin.core.errors import ReelkinError
from reelkin.train.checkpoint import load_model, open_model, save_model
from reelkin.train.import_checkpoint import main
from reelkin.train.models.aggregators import build_aggregator
from reelkin.train.models.published_weights import read_published_weights

from .conftest import ROOT

DIM, HEADS = 16, 8
State = dict[str, torch.Tensor]


class PublishedTCA(nn.Module):
    """The published module, as far as its names go."""

    def __init__(self, layers: int = 1, feedforward: int = 24) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(DIM, HEADS, feedforward, dropout=0.2)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def frames(self, video_TD: torch.Tensor) -> torch.Tensor:
        """Outputs [T, D] of one video, without padding; in training mode torch stays off its fast path."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
                if isinstance(module, nn.MultiheadAttention):
                    module.dropout = 0.0
            found: torch.Tensor = self.train().transformer_encoder(video_TD[:, None])[:, 0]
        return found


@pytest.fixture
def published() -> PublishedTCA:
    torch.manual_seed(3)
    model = PublishedTCA()
    for layer in model.transformer_encoder.layers:  # norms and biases start as ones and zeros
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def state_of(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def assert_equal_outputs(model: nn.Module, reference: PublishedTCA) -> None:
    lengths = [9, 1, 4]
    features = torch.zeros(3, 9, DIM)
    for row, length in enumerate(lengths):
        features[row, :length] = torch.randn(length, DIM, generator=torch.Generator().manual_seed(row))
    video, frames = model(features, torch.tensor(lengths)), model.encode(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        expected = reference.frames(features[row, :length])
        torch.testing.assert_close(video[row], F.normalize(expected.mean(0), dim=0), atol=1e-5, rtol=0)
        torch.testing.assert_close(frames[row, :length], F.normalize(expected, dim=1), atol=1e-5, rtol=0)


def wrap_moco(state: State) -> State:
    parts = {f"encoder_q.{key}": value for key, value in state.items()}
    parts |= {f"encoder_k.{key}": value + 1 for key, value in state.items()}
    return {**parts, "queue": torch.randn(DIM, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        wrap_moco,
        lambda state: {f"module.{key}": value for key, value in wrap_moco(state).items()},
        lambda state: {"state_dict": state, "epoch": 40},
        lambda state: {key.replace("transformer_encoder.", "encoder."): value for key, value in state.items()},
        lambda state: {key: value.double() for key, value in state.items()},
    ],
    ids=["bare", "module", "moco", "module moco", "checkpoint", "own names", "float64"],
)
def test_outputs_equal_torchs_own_encoder(
    published: PublishedTCA, tmp_path: Path, wrapped: Callable[[State], Any]
) -> None:
    path = saved(tmp_path / "model.pth", wrapped(state_of(published)))
    assert_equal_outputs(read_published_weights(path), published)


def test_files_of_the_torch_of_that_time_are_read(published: PublishedTCA, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", state_of(published), _use_new_zipfile_serialization=False)
    assert_equal_outputs(read_published_weights(path), published)


def test_layers_and_widths_are_read_off_the_shapes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = PublishedTCA(layers=3, feedforward=40)
    loaded = read_published_weights(saved(tmp_path / "model.pth", state_of(model)))
    config = loaded.config
    assert (config.dim, config.num_layers, config.feedforward, config.num_heads) == (DIM, 3, 40, HEADS)
    assert not loaded.training
    assert_equal_outputs(loaded, model)


def test_the_number_of_heads_counts(published: PublishedTCA, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", state_of(published))
    features, lengths = torch.randn(1, 5, DIM), torch.tensor([5])
    eight, four = (read_published_weights(path, heads)(features, lengths) for heads in (8, 4))
    assert not torch.allclose(eight, four, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("netvlad", {"num_clusters": 3, "output_dim": 12, "gating_reduction": 4}),
        (
            "nextvlad",
            {"num_clusters": 3, "output_dim": 12, "gating_reduction": 4, "groups_of_channels": 4, "expansion": 3},
        ),
        ("lstm", {"output_dim": 10, "num_layers": 3}),
        ("gru", {"output_dim": 10}),
    ],
)
def test_the_other_published_models_come_back_with_their_shapes(
    tmp_path: Path, name: str, fields: dict[str, int]
) -> None:
    torch.manual_seed(0)
    model = build_aggregator(name, {"dim": DIM, **fields}).eval()
    loaded = read_published_weights(saved(tmp_path / "model.pth", model.state_dict()))
    assert loaded.name == name
    assert {key: getattr(loaded.config, key) for key in fields} == fields
    features, lengths = torch.randn(2, 5, DIM), torch.tensor([5, 2])
    assert torch.equal(loaded(features, lengths), model(features, lengths))


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def changed(state: State, **changes: Any) -> State:
    out = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in out.items() if value is not None}


P = "transformer_encoder.layers.0."


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: {**s, "evil": RunsCode()}, r"it asks for \S*mkdir, which would run code"),
        (lambda s: nn.Linear(2, 2), r"it asks for torch\.nn\.modules\.linear\.Linear"),
        (lambda s: [1, 2], "holds no state dict but a list"),
        (lambda s: {}, "holds no state dict but an empty dict"),
        (lambda s: {**s, "epoch": 3}, "its entry 'epoch' is not a tensor"),
        (lambda s: {"fc.weight": torch.ones(2, 2)}, r"none of the published models: .* are fc\.weight"),
        (lambda s: changed(s, **{P + "linear1.weight": None}), r"encoder\.layers\.0\.linear1\.weight are missing"),
        (lambda s: changed(s, **{P + "norm2.bias": None}), r"missing: encoder\.layers\.0\.norm2\.bias"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, r"unknown: extra\.weight"),
        (lambda s: {**s, P + "norm1.bias": torch.ones(3)}, r"make a tca: (.|\n)*mismatch for encoder\.layers"),
        (lambda s: {**s, P + "norm1.bias": torch.full((DIM,), float("nan"))}, r"norm1\.bias in .* are not all finite"),
        (lambda s: {**s, P + "norm1.bias": torch.ones(DIM, dtype=torch.int64)}, r"norm1\.bias in .* are torch\.int64"),
        (lambda s: {**s, P + "self_attn.in_proj_weight": torch.tensor(1.0)}, r"shape \[\], which fits no model"),
        (lambda s: {**s, P + "norm1.bias": s[P + "norm1.bias"].to_sparse()}, r"norm1\.bias in .* no plain values"),
        (lambda s: {**s, P + "norm1.bias": s[P + "norm1.bias"].to("meta")}, r"norm1\.bias in .* no plain values"),
        (lambda s: {key.replace("layers.0", "layers.7"): v for key, v in s.items()}, r"layers\.0\.\S+ are missing"),
        (lambda s: {**s, P.replace("0", "999999999") + "x": torch.ones(1)}, r"numbered \[0, 999999999\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_named(
    published: PublishedTCA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[State], Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "model.pth", spoil(state_of(published)))
    with pytest.raises(ReelkinError, match=message) as caught:
        read_published_weights(path)
    assert "model.pth" in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists(), "nothing in the file may run"


@pytest.mark.parametrize("heads", [0, 3, 32])
def test_heads_that_cannot_be_are_refused(published: PublishedTCA, tmp_path: Path, heads: int) -> None:
    path = saved(tmp_path / "model.pth", state_of(published))
    with pytest.raises(ReelkinError, match=rf"{heads} heads cannot share; give --num-heads .*published: 8"):
        read_published_weights(path, heads)


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": RunsCode()})])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ReelkinError, match=r"model\.pth was refused as weights"):
        load_model(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


def test_a_cut_file_and_a_missing_one_are_refused(published: PublishedTCA, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", state_of(published))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ReelkinError, match="damaged"):
        load_model(path)
    with pytest.raises(ReelkinError, match="cannot read the weights"):
        read_published_weights(tmp_path / "nothing.pth")


def test_published_weights_run_folders_and_model_folders_are_all_models(
    published: PublishedTCA, tmp_path: Path
) -> None:
    path = saved(tmp_path / "model.pth", state_of(published))
    save_model(read_published_weights(path), tmp_path / "run" / "model", {"trained on": "x"})
    (tmp_path / "run" / "config.json").write_text('{"config": {}}')
    for each in (path, tmp_path / "run", tmp_path / "run" / "model"):
        loaded = open_model(each)
        assert loaded.name == "tca" and loaded.path == each and loaded.config["dim"] == DIM
        assert loaded.folder == (None if each == path else tmp_path / "run" / "model")
        assert_equal_outputs(loaded.module, published)
    assert open_model(tmp_path / "run").facts["trained on"] == "x"


def test_the_script_makes_a_model_folder(
    published: PublishedTCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "model.pth", state_of(published))
    assert main(["--input", str(path), "--output", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    assert "tca, features of 16 dimensions to embeddings of 16\n8 attention heads, as told" in said
    assert_equal_outputs(load_model(tmp_path / "model"), published)
    facts = json.loads((tmp_path / "model" / "config.json").read_text())["facts"]
    assert facts["weights"] == "model.pth" and len(facts["weights sha256"]) == 64
    assert os.access(ROOT / "train" / "import_checkpoint.py", os.X_OK)


def test_the_script_replaces_models_only(
    published: PublishedTCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "model.pth", state_of(published))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert main(["--input", str(path), "--output", str(tmp_path / "photos")]) == 2
    assert "exists and is no model folder" in capsys.readouterr().err
    assert (tmp_path / "photos" / "cat.jpg").exists()
