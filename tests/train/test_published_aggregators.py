"""NetVLAD and NeXtVLAD against their formulas written out as loops, LSTM and GRU against torch's packed sequences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from reelkin.core.engine.batch_norm import batch_norms
from reelkin.train.models.netvlad import NetVLAD, NetVLADConfig
from reelkin.train.models.nextvlad import NeXtVLAD, NeXtVLADConfig
from reelkin.train.models.recurrent import GRU, LSTM, RecurrentConfig

DIM, LENGTHS = 6, [5, 1, 3]
Array = NDArray[np.float64]
Weights = dict[str, Array]


def videos() -> list[Array]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal((length, DIM)) for length in LENGTHS]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.full((3, 5, DIM), math.nan, dtype=torch.float64)
    for row, video in zip(features, videos(), strict=True):
        row[: len(video)] = torch.from_numpy(video)
    return features, torch.tensor(LENGTHS)


def settled(model: nn.Module) -> nn.Module:
    """Float64, with all weights and running statistics away from their start."""
    generator = torch.Generator().manual_seed(5)
    model = model.double()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.add_(0.3 * torch.rand(value.shape, dtype=torch.float64, generator=generator))
    return model


def weights_of(model: nn.Module) -> Weights:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x)


def softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


class Norms:
    """Batch norm by hand: with running statistics, or with those of the rows that it is given."""

    def __init__(self, weights: Weights, training: bool) -> None:
        self.weights, self.training = weights, training

    def __call__(self, name: str, rows: list[Array]) -> list[Array]:
        mean, var = (self.weights[f"{name}.running_{what}"] for what in ("mean", "var"))
        if self.training:
            stacked = np.stack(rows)
            mean, var = stacked.mean(0), stacked.var(0)
        scale = self.weights[f"{name}.weight"] / np.sqrt(var + 1e-5)
        return [(row - mean) * scale + self.weights[f"{name}.bias"] for row in rows]


def head_by_hand(w: Weights, norm: Norms, vlads: list[Array]) -> list[Array]:
    flat = norm("bn2", [np.concatenate([unit(cluster) for cluster in vlad]) for vlad in vlads])
    activations = norm("bn3", [w["fc1.weight"] @ each + w["fc1.bias"] for each in flat])
    hidden = norm("bn4", [w["fc2.weight"] @ each + w["fc2.bias"] for each in activations])
    gates = [sigmoid(w["fc3.weight"] @ np.maximum(each, 0) + w["fc3.bias"]) for each in hidden]
    return [unit(activation * gate) for activation, gate in zip(activations, gates, strict=True)]


def per_video(frames: list[Array]) -> list[list[Array]]:
    ends = np.cumsum(LENGTHS)
    return [frames[end - length : end] for end, length in zip(ends, LENGTHS, strict=True)]


def netvlad_by_hand(w: Weights, training: bool) -> list[Array]:
    norm = Norms(w, training)
    clusters = len(w["centroids"])
    vlads = []
    for frames in per_video([unit(row) for row in norm("bn1", [frame for video in videos() for frame in video])]):
        vlad = np.zeros((clusters, DIM))
        for frame in frames:
            assigned = softmax(w["conv.weight"][:, :, 0] @ frame + w["conv.bias"])
            for cluster in range(clusters):
                vlad[cluster] += assigned[cluster] * (frame - w["centroids"][cluster])
        vlads.append(vlad)
    return head_by_hand(w, norm, vlads)


def nextvlad_by_hand(w: Weights, groups: int, training: bool) -> list[Array]:
    norm = Norms(w, training)
    clusters, channels = w["centroids"].shape
    expanded = [w["conv1.weight"][:, :, 0] @ unit(frame) + w["conv1.bias"] for video in videos() for frame in video]
    scores = norm("bn1", [w["conv3.weight"][:, :, 0] @ frame for frame in expanded])
    vlads = []
    for frames, frame_scores in zip(per_video(expanded), per_video(scores), strict=True):
        vlad = np.zeros((clusters, channels))
        for frame, score in zip(frames, frame_scores, strict=True):
            attention = sigmoid(w["conv2.weight"][:, :, 0] @ frame + w["conv2.bias"])
            for group in range(groups):
                assigned = softmax(score[group::groups])  # score number k * groups + g is of cluster k and group g
                for cluster in range(clusters):
                    residual = frame[group::groups] - w["centroids"][cluster]
                    vlad[cluster] += attention[group] * assigned[cluster] * residual
        vlads.append(vlad)
    return head_by_hand(w, norm, vlads)


@pytest.mark.parametrize("training", [False, True])
def test_netvlad_equals_its_formula(training: bool) -> None:
    config = NetVLADConfig(dim=DIM, num_clusters=4, output_dim=8, gating_reduction=2, dropout=0.0)
    model = settled(NetVLAD(config)).train(training)
    expected = netvlad_by_hand(weights_of(model), training)
    np.testing.assert_allclose(model(*padded()).detach(), np.stack(expected), atol=1e-11)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [3, 4])
def test_nextvlad_equals_its_formula(training: bool, groups: int) -> None:
    config = NeXtVLADConfig(
        dim=DIM, num_clusters=4, output_dim=8, gating_reduction=2, dropout=0.0, groups_of_channels=groups
    )
    model = settled(NeXtVLAD(config)).train(training)
    expected = nextvlad_by_hand(weights_of(model), groups, training)
    np.testing.assert_allclose(model(*padded()).detach(), np.stack(expected), atol=1e-11)


def test_nextvlad_groups_as_the_published_reshaping_does() -> None:
    # That code lays channels and time out as [N, X / G, G * T] by plain views of [N, X, T] tensors.
    config = NeXtVLADConfig(dim=DIM, num_clusters=4, output_dim=8, gating_reduction=2, groups_of_channels=3)
    model = settled(NeXtVLAD(config)).eval()
    x_NDT = torch.from_numpy(np.stack([videos()[0]] * 2)).transpose(1, 2)
    x_NXT = model.conv1(F.normalize(x_NDT, dim=1))
    attention = torch.sigmoid(model.conv2(x_NXT)).view(2, 1, -1)
    scores_NST = model.conv3(x_NXT)
    scores_NST = model.bn1(scores_NST.transpose(1, 2).flatten(0, 1)).view(2, 5, -1).transpose(1, 2)
    assigned = scores_NST.reshape(2, 4, -1).softmax(1) * attention
    vlad = assigned @ x_NXT.reshape(2, 4, -1).transpose(1, 2) - model.centroids * assigned.sum(-1, keepdim=True)
    expected = model.embed_clusters(vlad, None)
    found = model(x_NDT.transpose(1, 2), torch.tensor([5, 5]))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_netvlad_starts_from_its_centres() -> None:
    model = NetVLAD(NetVLADConfig(dim=DIM, num_clusters=4, output_dim=8, alpha=3.0))
    torch.testing.assert_close(model.conv.weight[:, :, 0], 6.0 * model.centroids)
    torch.testing.assert_close(model.conv.bias, -3.0 * model.centroids.norm(dim=1))
    assert model.centroids.min() >= 0 and model.centroids.max() <= 1


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("training", [False, True])
def test_recurrent_networks_equal_torchs_own_on_packed_sequences(kind: type[nn.Module], training: bool) -> None:
    model = settled(kind(RecurrentConfig(dim=DIM, output_dim=7, num_layers=3, dropout=0.0))).train(training)
    own = getattr(model, kind.__name__)
    reference = (nn.LSTM if kind is LSTM else nn.GRU)(DIM, 7, 3, batch_first=True).double()
    reference.load_state_dict(own.state_dict())
    rows = [torch.from_numpy(row) for row in Norms(weights_of(model), training)("bn1", list(np.concatenate(videos())))]
    sequences = [torch.stack(rows[sum(LENGTHS[:row]) : sum(LENGTHS[: row + 1])]) for row in range(3)]
    packed = nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False)
    outputs, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    video, frames = model(*padded()), model.encode(*padded())
    for row, length in enumerate(LENGTHS):
        own_outputs = outputs[row, :length]
        torch.testing.assert_close(frames[row, :length], F.normalize(own_outputs, dim=1), atol=1e-11, rtol=0)
        if not training:  # in training mode the statistics moved between the two calls, not the results
            torch.testing.assert_close(video[row], F.normalize(own_outputs.mean(0), dim=0), atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_recurrent_gradients_equal_torchs_own(kind: type[nn.Module]) -> None:
    model = settled(kind(RecurrentConfig(dim=DIM, output_dim=7, dropout=0.0))).train()
    reference = (nn.LSTM if kind is LSTM else nn.GRU)(DIM, 7, 2, batch_first=True).double()
    reference.load_state_dict(getattr(model, kind.__name__).state_dict())
    x = torch.from_numpy(np.stack([videos()[0]]))
    model(x, torch.tensor([5]))[:, 0].sum().backward()
    rows = torch.stack([torch.from_numpy(row) for row in Norms(weights_of(model), True)("bn1", list(x[0].numpy()))])
    F.normalize(reference(rows[None])[0].mean(1), dim=1)[:, 0].sum().backward()
    for name, parameter in reference.named_parameters():
        found = dict(model.named_parameters())[f"{kind.__name__}.{name}"].grad
        torch.testing.assert_close(found, parameter.grad, atol=1e-11, rtol=0, msg=name)


def test_recurrent_dropout_acts_between_layers_only() -> None:
    features, lengths = padded()
    one = settled(LSTM(RecurrentConfig(dim=DIM, output_dim=7, num_layers=1, dropout=0.5))).train()
    keys = torch.tensor([1, 2, 3])
    assert torch.equal(one(features, lengths, keys), one(features, lengths, keys + 1))
    two = settled(LSTM(RecurrentConfig(dim=DIM, output_dim=7, num_layers=2, dropout=0.5))).train()
    assert not torch.allclose(two(features, lengths, keys), two(features, lengths, keys + 1))


@pytest.mark.parametrize("kind", [NetVLAD, NeXtVLAD])
def test_frames_of_the_vlads_are_those_that_the_clusters_see(kind: type[nn.Module]) -> None:
    net, next_vlad = NetVLADConfig(dim=DIM, output_dim=8), NeXtVLADConfig(dim=DIM, output_dim=8, expansion=4)
    model = settled(kind(net if kind is NetVLAD else next_vlad)).eval()
    weights = weights_of(model)
    frames = [frame for video in videos() for frame in video]
    if kind is NetVLAD:
        seen = Norms(weights, False)("bn1", frames)
    else:
        seen = [weights["conv1.weight"][:, :, 0] @ unit(frame) + weights["conv1.bias"] for frame in frames]
    found = model.encode(*padded()).detach().numpy()
    for row, expected in enumerate(per_video([unit(each) for each in seen])):
        np.testing.assert_allclose(found[row, : LENGTHS[row]], np.stack(expected), atol=1e-11)


def test_the_published_names_are_the_state_dicts() -> None:
    tail = {f"{layer}.{what}" for layer in ("fc1", "fc2", "fc3") for what in ("weight", "bias")}
    norms = {
        f"bn{number}.{what}"
        for number in (1, 2, 3, 4)
        for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    net = NetVLAD(NetVLADConfig(dim=DIM, num_clusters=4, output_dim=8))
    assert set(net.state_dict()) == tail | norms | {"conv.weight", "conv.bias", "centroids"}
    assert len(batch_norms(net)) == 4
    next_vlad = NeXtVLAD(NeXtVLADConfig(dim=DIM, num_clusters=4, output_dim=8, groups_of_channels=3))
    convolutions = {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "conv3.weight", "centroids"}
    assert set(next_vlad.state_dict()) == tail | norms | convolutions
    lstm = LSTM(RecurrentConfig(dim=DIM, output_dim=7)).state_dict()
    assert {"LSTM.weight_ih_l0", "LSTM.bias_hh_l1", "bn1.running_mean"} <= set(lstm)
    assert "GRU.weight_hh_l1" in GRU(RecurrentConfig(dim=DIM, output_dim=7)).state_dict()
