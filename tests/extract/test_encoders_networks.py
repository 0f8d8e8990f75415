"""Networks by name: stages, descriptors, clip networks, inflation, folders of trained encoders."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.extract.encoders import EncoderSpec, Window, build_encoder, spec_from_info
from reelkin.extract.encoders.backbones import load_backbone
from reelkin.extract.encoders.descriptors import average, rmac
from reelkin.extract.encoders.frames import Preprocessing, to_network_input
from reelkin.extract.encoders.inflation import inflate
from reelkin.extract.encoders.networks import Architecture, Network, make_network
from reelkin.extract.encoders.spec import Descriptor
from reelkin.extract.encoders.torchvision_import import import_torchvision
from reelkin.extract.encoders.trained import load_encoder, save_encoder
from reelkin.extract.encoders.weights import fill_with_random

CPU = torch.device("cpu")
SMALL = Preprocessing(64, 64, "imagenet")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def lively(network: nn.Module, seed: int = 3) -> nn.Module:
    """Fixed weights, and batch norm statistics that matter."""
    fill_with_random(network, "lively")
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.3, 0.8, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


def listened(network: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    """What modules give, by torchvision's own names."""
    found: dict[str, Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: found.__setitem__(name, o.clone()))
    with torch.no_grad():
        network(x)
    return [found[name] for name in names]


def unit(row: np.ndarray) -> np.ndarray:
    return row / max(np.linalg.norm(row), 1e-12)


def looped_rmac(maps: list[np.ndarray]) -> np.ndarray:
    """TCA's region variant, region by region: kernel int(1.5 p), step p, p = int(2 side / 7), no padding."""
    rows = []
    for frame in range(len(maps[0])):
        parts = []
        for layer in maps:
            x = layer[frame].astype(np.float64)
            p = int(2 * min(x.shape[1:]) / 7)
            kernel, total, count = int(1.5 * p), np.zeros(len(x)), 0
            for top in range(0, x.shape[1] - kernel + 1, p):
                for left in range(0, x.shape[2] - kernel + 1, p):
                    total += unit(x[:, top : top + kernel, left : left + kernel].max(axis=(1, 2)))
                    count += 1
            assert count == 9
            parts.append(unit(total))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def test_rmac_is_the_published_sum_over_three_by_three_regions() -> None:
    rng = np.random.default_rng(0)
    maps = [np.maximum(rng.normal(size=(2, 5, side, side)), 0) for side in (56, 28, 14, 7)]
    found = rmac([torch.from_numpy(x) for x in maps]).numpy()
    np.testing.assert_allclose(found, looped_rmac(maps), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2)


def test_avg_is_the_mean_over_space_and_time_of_norm_one_per_stage() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # means 2 and 2
    y = torch.tensor([[[[[1.0]], [[5.0]]], [[[0.0]], [[8.0]]]]])  # over time: means 3 and 4
    np.testing.assert_allclose(average([x]), [[0.5**0.5, 0.5**0.5]], atol=1e-6)
    np.testing.assert_allclose(average([y]), [[0.6, 0.8]], atol=1e-6)


@pytest.mark.parametrize(
    "name,ends,dim",
    [
        ("resnet18", ["layer1.1", "layer2.1", "layer3.1", "layer4.1"], 960),
        ("mobilenet_v3_large", ["features.3", "features.6", "features.12", "features.16"], 24 + 40 + 112 + 960),
        ("convnext_tiny", ["features.1", "features.3", "features.5", "features.7"], 1440),
    ],
)
def test_stages_end_where_the_map_sizes_change(name: str, ends: list[str], dim: int) -> None:
    network = make_network(Architecture(f"torchvision:{name}", "avg", (1, 2, 3, 4), preprocessing=SMALL))
    fill_with_random(network.backbone, name)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        found = network(x)
    maps = listened(network.backbone, ends, x)
    assert [maps[i].shape[-1] for i in range(4)] == [16, 8, 4, 2] and network.dim == dim
    np.testing.assert_allclose(found, average(maps), atol=1e-6)


def test_chosen_stages_and_descriptors_follow_torchvisions_network() -> None:
    resnet = lively(import_torchvision().models.resnet18(weights=None))
    x = torch.randn(2, 3, 224, 224)
    second, fourth = listened(resnet, ["layer2.1", "layer4.1"], x)
    network = make_network(Architecture("torchvision:resnet18", "rmac", (2, 4)))
    network.backbone.load_state_dict(resnet.state_dict())
    with torch.inference_mode():
        np.testing.assert_allclose(network(x), looped_rmac([second.numpy(), fourth.numpy()]), atol=1e-5)
        head = make_network(Architecture("torchvision:resnet18", "head", preprocessing=SMALL))
        head.backbone.load_state_dict(resnet.state_dict())
        np.testing.assert_allclose(head(x), fourth.mean(dim=(2, 3)), atol=1e-5)
    assert network.dim == 128 + 512 and head.dim == 512


def test_networks_without_maps_give_their_own_embedding_only() -> None:
    backbone = load_backbone("torchvision:vit_b_32")
    network = make_network(Architecture("torchvision:vit_b_32"), backbone)
    assert network.architecture.descriptor == "head" and network.dim == 768
    x = torch.randn(1, 3, 224, 224)
    (normed,) = listened(network.backbone, ["encoder"], x)
    with torch.inference_mode():
        np.testing.assert_allclose(network(x), normed[:, 0], atol=1e-5)
    with pytest.raises(UsageError, match="no feature maps of several sizes; only --descriptor head"):
        make_network(Architecture("torchvision:vit_b_32", "imac"), backbone)
    with pytest.raises(UsageError, match=r"cannot take pictures of 96 x 96.*--size 256 --crop 224"):
        make_network(Architecture("torchvision:vit_b_32", preprocessing=Preprocessing(96, 96, "imagenet")), backbone)


def test_a_torchvision_encoder_by_name_equals_torchvision_used_directly(tmp_path: Path) -> None:
    resnet = lively(import_torchvision().models.resnet18(weights=None))
    path = tmp_path / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    frames = random_frames(3, 64, 64)
    spec = EncoderSpec("torchvision:resnet18", str(path), 64, 64, precision="float32", descriptor="head")
    encoder = build_encoder(spec)
    resnet.fc = nn.Identity()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((frames / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32).copy()
    with torch.no_grad():
        expected = resnet(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(encoder(frames), expected, rtol=1e-3, atol=1e-4)
    assert encoder.window == Window(1, 1) and encoder.info["descriptor"] == "head"
    again = build_encoder(spec_from_info(encoder.info, str(path)))
    assert again.info == encoder.info
    np.testing.assert_array_equal(again(frames), encoder(frames))


def test_clip_networks_take_windows_of_kinetics_frames() -> None:
    spec = EncoderSpec("r3d_18", "random", 32, 32, precision="float32", clip_frames=4, clip_step=2, descriptor="imac")
    encoder = build_encoder(spec)
    assert encoder.window == Window(4, 2) and encoder.dim == 64 + 128 + 256 + 512
    clips = random_frames(2, 4, 32, 32)
    network = import_torchvision().models.video.r3d_18(weights=None).eval()
    fill_with_random(network, "r3d_18")
    mean, std = np.array([0.43216, 0.394666, 0.37645]), np.array([0.22803, 0.22145, 0.216989])
    x = ((clips / 255.0 - mean) / std).transpose(0, 4, 1, 2, 3).astype(np.float32).copy()
    maps = listened(network, ["layer1", "layer2", "layer3", "layer4"], torch.from_numpy(x))
    parts = [functional.normalize(functional.normalize(m, dim=1).amax(dim=(2, 3, 4)), dim=1) for m in maps]
    np.testing.assert_allclose(encoder(clips), torch.cat(parts, dim=1), atol=1e-4)
    assert spec_from_info(encoder.info, "random").clip_step == 2


def flat_twin(state: dict[str, Tensor]) -> nn.Module:
    """The 2-D network that inflation starts from, without the max-pool that torchvision's 3-D networks lack."""
    resnet = import_torchvision().models.resnet18(weights=None).eval()
    resnet.load_state_dict(state)
    resnet.maxpool = nn.Identity()
    return resnet


@pytest.mark.parametrize("name,length,same", [("mc3_18", 12, slice(5, 7)), ("r3d_18", 112, slice(7, 8))])
def test_an_inflated_network_on_a_still_clip_gives_what_the_flat_one_gives(name: str, length: int, same: slice) -> None:
    """At times whose receptive field meets no end of the clip: 5 pictures of mc3_18, 54 of r3d_18 to either side."""
    state = lively(import_torchvision().models.resnet18(weights=None)).state_dict()
    network = import_torchvision().models.get_model(name, weights=None).eval()
    missing = network.load_state_dict(inflate(state, network, "here"), strict=False).missing_keys
    assert missing == ["fc.weight", "fc.bias"]
    picture = torch.randn(1, 3, 32, 32)
    (flat,) = listened(flat_twin(state), ["layer4"], picture)
    (deep,) = listened(network, ["layer4"], picture.unsqueeze(2).repeat(1, 1, length, 1, 1))
    scale = float(flat.abs().max())
    for time in range(*same.indices(deep.shape[2])):
        np.testing.assert_allclose(deep[:, :, time], flat, atol=1e-4 * scale)
    assert not np.allclose(deep[:, :, 0], flat, atol=1e-2 * scale)  # zeros were padded before the first picture


def test_inflation_goes_where_it_can_and_says_where_it_cannot(tmp_path: Path) -> None:
    state = lively(import_torchvision().models.resnet18(weights=None)).state_dict()
    torch.save(state, tmp_path / "flat.pth")
    spec = EncoderSpec("r3d_18", str(tmp_path / "flat.pth"), 32, 32, clip_frames=2, inflate=True)
    assert build_encoder(spec).info["inflate"] is True
    with pytest.raises(UsageError, match="split into space and time"):
        EncoderSpec("r2plus1d_18", "x.pth", inflate=True)
    with pytest.raises(UsageError, match="no time axis|only clip encoders"):
        EncoderSpec("resnet50", "x.pth", inflate=True)
    deeper = import_torchvision().models.resnet34(weights=None).state_dict()
    torch.save(deeper, tmp_path / "deeper.pth")
    with pytest.raises(UsageError, match=r"is no 2-D ResNet-18: layer1\.2\.conv1\.weight has no place"):
        build_encoder(EncoderSpec("r3d_18", str(tmp_path / "deeper.pth"), 32, 32, clip_frames=2, inflate=True))
    with pytest.raises(UsageError, match="does not fit this encoder"):
        build_encoder(EncoderSpec("r3d_18", str(tmp_path / "flat.pth"), 32, 32, clip_frames=2))


def trained_a_little() -> Network:
    """A small encoder that learns to tell four pictures apart, in a few steps."""
    architecture = Architecture("torchvision:mobilenet_v3_small", "avg", (2, 4), projection=8, preprocessing=SMALL)
    network = make_network(architecture)
    torch.manual_seed(0)
    fill_with_random(network.backbone, "start")
    x = to_network_input(random_frames(4, 64, 64), "imagenet", CPU)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        similarity = network(x) @ network(x).T
        loss = functional.cross_entropy(similarity / 0.1, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    return network.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    network = trained_a_little()
    folder = tmp_path_factory.mktemp("run") / "encoder"
    save_encoder(network, folder, {"recipe": "test"})
    return network, folder


def test_an_encoder_trained_here_comes_back_as_it_was(trained: tuple[Network, Path], tmp_path: Path) -> None:
    network, folder = trained
    encoder = build_encoder(EncoderSpec("run", str(folder), precision="float32"))
    frames = random_frames(3, 64, 64, seed=5)
    with torch.inference_mode():
        expected = network(to_network_input(frames, "imagenet", CPU))
    np.testing.assert_allclose(encoder(frames), expected, atol=1e-5)
    assert encoder.dim == 8 and encoder.preprocessing == SMALL and encoder.info["stages"] == [2, 4]
    shutil.copytree(folder, tmp_path / "run" / "model")  # a run folder holds its model under model/
    again = build_encoder(spec_from_info(encoder.info, str(tmp_path / "run")))
    assert again.info["weights_sha256"] == encoder.info["weights_sha256"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "reelkin-encoder" and config["facts"] == {"recipe": "test"}


@pytest.mark.parametrize("descriptor", ["imac", "head"])
def test_threads_that_encode_at_the_same_time_do_not_mix_their_pictures(descriptor: Descriptor) -> None:
    spec = EncoderSpec("torchvision:resnet18", "random", 64, 0, precision="float32", descriptor=descriptor)
    encoder = build_encoder(spec)  # of whole pictures, which no graph is made for
    batches = [random_frames(4, 64, 96, seed=number) for number in range(24)]
    alone = [encoder(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(encoder, batches))
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_windows_of_a_trained_clip_encoder_are_found_again_in_its_info(tmp_path: Path) -> None:
    network = make_network(Architecture("r3d_18", preprocessing=Preprocessing(32, 32, "kinetics"), window=Window(4, 4)))
    fill_with_random(network.backbone, "start")
    save_encoder(network.eval(), tmp_path / "run")
    made = build_encoder(EncoderSpec("run", str(tmp_path / "run"), precision="float32", clip_frames=2, clip_step=1))
    again = build_encoder(spec_from_info(made.info, str(tmp_path / "run")))
    assert again.window == made.window == Window(2, 1)


def test_folders_that_hold_no_encoder_are_refused(trained: tuple[Network, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        build_encoder(EncoderSpec("run", str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match="holds no encoder"):
        build_encoder(EncoderSpec("run", str(tmp_path)))
    (tmp_path / "config.json").write_text('{"format": "reelkin-model", "version": 1, "aggregator": "tca"}')
    with pytest.raises(UsageError, match="works on frame features, not on frames"):
        load_encoder(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(trained[1], damaged)
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ReelkinError, match="not the file that its config.json speaks of"):
        load_encoder(damaged)
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "model.safetensors").write_bytes(content)
    (damaged / "config.json").write_text(json.dumps({**config, "version": 9}))
    with pytest.raises(ReelkinError, match="version 9"):
        load_encoder(damaged)
    config["encoder"]["projection"] = 16
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(ReelkinError, match="do not fit its config.json"):
        load_encoder(damaged)


def test_weights_of_another_network_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    def refused(name: str, match: str, content: bytes | None = None) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=match):
            build_encoder(EncoderSpec("torchvision:resnet18", str(tmp_path / name), 64, 64))

    models = import_torchvision().models
    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "34.pth")
    refused("34.pth", r"does not fit this encoder: 0 tensors missing, \d+ unknown")
    refused("page.pth", "it is a web page", b"<!DOCTYPE html><html><body>404</body></html>")
    state = models.resnet18(weights=None).state_dict()
    safetensors.torch.save_file(state, tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    refused("cut.safetensors", "holds no state dict", content[: len(content) // 2])
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    refused("nan.pth", r"not finite, first layer1\.0\.conv1\.weight")


def test_a_classifier_of_another_size_does_not_matter(tmp_path: Path) -> None:
    resnet = lively(import_torchvision().models.resnet18(weights=None))
    resnet.fc = nn.Linear(512, 7)
    torch.save({"state_dict": resnet.state_dict()}, tmp_path / "seven.pth")
    assert build_encoder(EncoderSpec("torchvision:resnet18", str(tmp_path / "seven.pth"), 64, 64)).dim == 960


@pytest.mark.parametrize(
    "flags,match",
    [
        ({"name": "torchvision:"}, "names no network"),
        ({"name": "torchvision:resnet18", "stages": "4,2"}, "rising numbers"),
        ({"name": "torchvision:resnet18", "stages": "layer4"}, "rising numbers"),
        ({"name": "torchvision:resnet18", "descriptor": "head", "stages": "4"}, "no feature maps"),
        ({"name": "torchvision:resnet18", "descriptor": "vlad"}, "--descriptor 'vlad' is unknown"),
        ({"name": "torchvision:resnet18", "clip_frames": 8}, "takes single frames, not clips"),
        ({"name": "torchscript", "weights": "x.pt", "descriptor": "avg"}, "whose file decides it"),
        ({"name": "r3d_18", "clip_frames": 1}, "choose 2 to 512"),
        ({"name": "r3d_18", "clip_step": 0}, "choose 1 to 512"),
        ({"name": "r3d_18", "inflate": True, "weights": "random"}, "needs weights of a 2-D"),
        ({"name": "run"}, "needs --weights FOLDER"),
        ({"name": "resnet50", "precision": "int8"}, "choose from auto, float32"),
    ],
)
def test_flags_that_do_not_go_together_are_usage_errors(flags: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        EncoderSpec(**flags)


def test_stages_and_names_that_a_network_lacks_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="has stages 1 to 4, not 5"):
        make_network(Architecture("torchvision:resnet18", stages=(5,)))
    with pytest.raises(UsageError, match="torchvision has no such network; it has alexnet"):
        make_network(Architecture("torchvision:resnet19"))
    with pytest.raises(UsageError, match="rmac is defined for single frames"):
        make_network(Architecture("r3d_18", "rmac"))


def test_timm_networks_by_name_or_a_clear_word_what_to_install(tmp_path: Path) -> None:
    try:
        import_torchvision()
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(ReelkinError, match=r"pip install .*timm"):
            build_encoder(EncoderSpec("timm:resnet18", "random"))
        return
    path = str(tmp_path / "resnet18.pth")
    torch.save(lively(import_torchvision().models.resnet18(weights=None)).state_dict(), path)
    encoder = build_encoder(EncoderSpec("timm:resnet18", path, 64, 64, precision="float32"))
    twin = build_encoder(EncoderSpec("torchvision:resnet18", path, 64, 64, precision="float32"))
    frames = random_frames(2, 64, 64)
    assert encoder.dim == 960
    np.testing.assert_allclose(encoder(frames), twin(frames), atol=1e-4)  # the same network, written twice
    with pytest.raises(UsageError, match="has no such network"):
        build_encoder(EncoderSpec("timm:resnet19", "random"))
