"""Encoders: iMAC against its formula in numpy, the network against torchvision's, weights as they were asked."""

from __future__ import annotations

import http.client
import logging
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.files import sha256_file
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.encoders import EncoderSpec, build_encoder, encoder_list
from reelkin.extract.encoders import weights as weights_module
from reelkin.extract.encoders.descriptors import imac
from reelkin.extract.encoders.frames import Preprocessing, to_network_input
from reelkin.extract.encoders.torchvision_import import import_torchvision
from reelkin.extract.encoders.weights import fill_with_random

PUBLISHED = Path(__file__).parents[2] / "../shared/weights/mobilenet_v2_imagenet_imac.torchscript.pt"


def random_frames(count: int = 3, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def numpy_imac(maps: list[np.ndarray]) -> np.ndarray:
    """The formula, loop by loop, in float64."""
    rows = []
    for frame in range(len(maps[0])):
        parts = []
        for layer in maps:
            x = layer[frame].astype(np.float64)
            best = np.full(x.shape[0], -np.inf)
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    column = x[:, i, j]
                    best = np.maximum(best, column / max(np.linalg.norm(column), 1e-12))
            parts.append(best / max(np.linalg.norm(best), 1e-12))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def lively_resnet50() -> nn.Module:
    """ResNet-50 with random weights and random batch norm statistics: folding them must matter."""
    resnet = import_torchvision().models.resnet50(weights=None)
    fill_with_random(resnet, "test")
    generator = torch.Generator().manual_seed(3)
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.running_mean.copy_(torch.randn(count, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(count, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(count, generator=generator) * 0.5 + 0.3)
            module.bias.data.copy_(torch.randn(count, generator=generator) * 0.1)
    return resnet.eval()


@pytest.fixture(scope="module")
def resnet50_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(lively_resnet50().state_dict(), path)
    return path


class TinyUint8(nn.Module):
    """Takes uint8 only, as a published file does; 6 numbers a frame."""

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8, "uint8 frames only"
        x = frames.float() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


class TinyFloat(nn.Module):
    """Takes floats only: its convolution refuses uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.convolution(frames).mean(dim=(2, 3))


class Maps(nn.Module):
    """No encoder: returns a feature map."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.float()


def scripted(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_imac_equals_the_formula_in_numpy() -> None:
    rng = np.random.default_rng(0)
    maps = [np.maximum(rng.normal(size=(2, channels, 5, 4)), 0) for channels in (3, 7)]
    maps[0][1] = 0  # a black frame: zeros, not NaN
    expected = numpy_imac(maps)
    found = imac([torch.from_numpy(x) for x in maps]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.linalg.norm(found[0]) == pytest.approx(np.sqrt(2))


def test_resnet50_is_imac_over_the_four_stages_of_torchvisions_network(resnet50_file: Path) -> None:
    """Independent path: forward hooks on the unfolded torchvision model, the formula in float64 numpy."""
    frames = random_frames()
    encoder = build_encoder(EncoderSpec("resnet50", str(resnet50_file), size=64, precision="float32"))
    resnet = lively_resnet50()
    maps: list[Tensor] = []
    for number in (1, 2, 3, 4):
        layer = resnet.get_submodule(f"layer{number}")
        layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (frames / 255.0 - mean) / std
    with torch.no_grad():
        resnet(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32).copy()))
    expected = numpy_imac([layer.numpy() for layer in maps])
    found = encoder(frames)
    assert found.shape == (3, 3840) == (3, encoder.dim) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2, atol=1e-5)
    cosine = (found * expected).sum(axis=1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1))
    assert cosine.min() > 0.99999
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_file_is_recorded_with_its_hash_in_both_formats(resnet50_file: Path, tmp_path: Path) -> None:
    state = torch.load(resnet50_file, weights_only=True)
    other = tmp_path / "resnet50.safetensors"
    safetensors.torch.save_file({f"module.{name}": value for name, value in state.items() if "fc" not in name}, other)
    first, second = (build_encoder(EncoderSpec("resnet50", str(path), 256, 64)) for path in (resnet50_file, other))
    np.testing.assert_array_equal(first(random_frames()), second(random_frames()))
    assert first.info["weights_sha256"] == sha256_file(resnet50_file)
    assert second.info["weights"] == "resnet50.safetensors" and not second.info["random_weights"]
    assert first.info["preprocessing"] == {
        "short_side": 256,
        "crop": 64,
        "input": "imagenet",
        "scaling": "area",
    }


def test_random_weights_are_fixed_and_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "reelkin.extract"):
        encoder = build_encoder(EncoderSpec("resnet50", "random", 64))
    assert "RANDOM WEIGHTS" in caplog.text
    assert encoder.info["random_weights"] and encoder.info["weights_path"] is None
    torch.manual_seed(99)  # the process's generator must not matter
    again = build_encoder(EncoderSpec("resnet50", "random", 64))
    assert again.info["weights_sha256"] == encoder.info["weights_sha256"] != ""
    frames = random_frames()
    np.testing.assert_array_equal(again(frames), encoder(frames))


@pytest.mark.parametrize("failure", [urllib.error.URLError("no network"), http.client.BadStatusLine("no network")])
def test_weights_that_cannot_be_had_fail_clearly_or_fall_back_clearly(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(url: str, timeout: float) -> None:
        assert timeout <= 10
        raise failure

    monkeypatch.setattr(weights_module.urllib.request, "urlopen", no_network)
    with pytest.raises(ReelkinError, match=r"cannot be downloaded \(no network\).*--weights random"):
        build_encoder(EncoderSpec("resnet50", "default"))
    with caplog.at_level(logging.WARNING, "reelkin.extract"):
        assert build_encoder(EncoderSpec("resnet50", "auto", 64)).info["random_weights"]
    assert "RANDOM WEIGHTS" in caplog.text and "no network" in caplog.text


def test_a_cached_file_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/resnet50-0676ba61.pth").write_bytes(b"something else")
    with pytest.raises(ReelkinError, match=r"expected 0676ba61\.\.\.; remove it"):
        build_encoder(EncoderSpec("resnet50", "default"))


def test_files_that_do_not_fit_say_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        build_encoder(EncoderSpec("resnet50", str(tmp_path / "missing.pth")))
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(UsageError, match="holds no state dict"):
        build_encoder(EncoderSpec("resnet50", str(tmp_path / "noise.pth")))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "small.pth")
    with pytest.raises(UsageError, match=r"tensors missing.*conv1\.weight is \(1,\)"):
        build_encoder(EncoderSpec("resnet50", str(tmp_path / "small.pth")))
    with pytest.raises(UsageError, match="cannot be loaded as TorchScript"):
        build_encoder(EncoderSpec("torchscript", str(tmp_path / "noise.pth")))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(UsageError, match="holds no state dict"):
        build_encoder(EncoderSpec("resnet50", str(tmp_path / "evil.pth")))
    assert not (tmp_path / "ran").exists()


def test_unknown_names_and_missing_files_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="'vgg' is unknown; choose from resnet50"):
        EncoderSpec("vgg")
    with pytest.raises(UsageError, match="needs --weights FILE"):
        EncoderSpec("torchscript")
    assert "resnet50" in encoder_list() and "3840" in encoder_list()


@pytest.mark.parametrize("module,kind,dim", [(TinyUint8(), "uint8", 6), (TinyFloat(), "imagenet", 5)])
def test_a_torchscript_file_is_asked_what_it_takes(module: nn.Module, kind: str, dim: int, tmp_path: Path) -> None:
    path = scripted(module, tmp_path / "tiny.pt")
    encoder = build_encoder(EncoderSpec("torchscript", str(path), 64, 64, precision="float32"))
    frames = random_frames(4, 40, 60)
    assert encoder.dim == dim and encoder.preprocessing.input == kind
    assert encoder.info["weights_sha256"] == sha256_file(path)
    with torch.no_grad():
        expected = module(to_network_input(frames, encoder.preprocessing.input, torch.device("cpu")))
    np.testing.assert_allclose(encoder(frames), expected, atol=1e-6)


def test_a_torchscript_file_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"returns torch\.float32 \(2, 3, 224, 224\) for 2 frames"):
        build_encoder(EncoderSpec("torchscript", str(scripted(Maps(), tmp_path / "maps.pt"))))
    path = scripted(TinyFloat(), tmp_path / "tiny.pt")
    with pytest.raises(UsageError, match="in no known form"):
        build_encoder(EncoderSpec("torchscript", str(path), input="uint8"))


def test_frames_of_any_sizes_keep_their_order(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderSpec("torchscript", str(scripted(TinyUint8(), tmp_path / "tiny.pt"))))
    frames = [random_frames(1, 32 + 8 * (i % 2), 48, seed=i)[0] for i in range(5)]
    expected = np.stack([encoder(frame[None])[0] for frame in frames])
    np.testing.assert_array_equal(encoder(frames), expected)
    assert encoder([]).shape == (0, 6) == encoder(np.zeros((0, 32, 32, 3), np.uint8)).shape


def test_crops_are_centred_and_wide_pictures_bounded() -> None:
    frames = random_frames(2, 256, 455)
    cropped = Geometry(256, 224).cut(frames)
    np.testing.assert_array_equal(cropped, frames[:, 16:240, 115:339])  # floor((455 - 224) / 2) = 115
    np.testing.assert_array_equal(Geometry(256).cut(frames), frames)
    assert Geometry(32).cut(random_frames(1, 32, 400)).shape == (1, 32, 128, 3)
    with pytest.raises(UsageError, match="the crop must be"):
        Preprocessing(128, 224, "uint8")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the encoder file is not part of the repository")
def test_a_real_torchscript_encoder_gives_unit_descriptors() -> None:
    torch.set_num_threads(1)
    encoder = build_encoder(EncoderSpec("torchscript", str(PUBLISHED), 96, 96))
    assert encoder.dim == 1432 and encoder.preprocessing.input == "uint8"
    found = encoder(random_frames(2, 96, 128))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[1] < 0.9999
