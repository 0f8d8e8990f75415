"""The published command line: its flags keep their meaning, and its steps are the published ones, fault by fault."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reelkin.core.config import parse
from reelkin.core.errors import UsageError
from reelkin.extract.store import write_store
from reelkin.train.checkpoint import load_model
from reelkin.train.recipes.effects import PUBLISHED_RULES, without_effect
from reelkin.train.recipes.tca_published import TcaPublished
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.session import RECIPES, recipe_named, run

from .conftest import DIM, RUN, Launch, scene_features
from .published_reference import PublishedTraining, RankBatch, circle_with_row_fault
from .workers.published_ranks import record

WORKER = Path(__file__).parent / "workers" / "published_ranks.py"
README_LINE = (
    "--annotation_path vcdb.pickle --feature_path FEATURES --model_path OUT --num_clusters 256 --num_layers 1 "
    "--output_dim 1024 --normalize_input --neg_num 16 --epochs 40 --batch_sz 64 --learning_rate 1e-5 --momentum 0.9 "
    "--weight_decay 1e-4 --pca_components 1024 --padding_size 300 --num_readers 32 --num_workers 1 --moco_k 4096 "
    "--moco_m 0. --moco_t 1.0 --print-freq 1 --use-adasum --fp16-allreduce"
)
SHORT_LINE = (
    "-ap vcdb.pickle -fp FEATURES -mp OUT -nc 256 -nl 1 -od 1024 -ni -nn 16 -e 40 -bs 64 -lr 1e-5 --momentum 0.9 "
    "-wd 1e-4 -pc 1024 -ps 300 -nr 32 -nw 1 --moco_k 4096 --moco_m 0. --moco_t 1.0 -p 1 --use-adasum --fp16-allreduce"
)


@dataclass(frozen=True)
class Set:
    """Features as store and as HDF5 file, and an annotation with VCDB's structure: 24 pairs, 12 background videos."""

    store: Path
    hdf5: Path
    vcdb: Path

    def flags(self, output: Path, more: str = "", **paths: Path) -> list[str]:
        """A small run; what stands in ``more`` counts."""
        given = {"-ap": self.vcdb, "-fp": self.store, "-mp": output} | {
            f"-{name}": path for name, path in paths.items()
        }
        small = f"-od {DIM} -pc {DIM} -nn 3 -e 3 -bs 4 -lr 1e-3 -ps 6 -nw 1 --moco_k 50 --moco_m 0 --moco_t 1 -p 1"
        words = [str(word) for flag, path in given.items() for word in (flag, path)]
        # The last of a repeated flag counts, as with argparse.
        return [*words, *small.split(), "--threads", "1", *more.split()]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Set:
    h5py = pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("published")
    features = scene_features(scenes=12, copies=2, seed=5)
    times = {name: (each, np.arange(len(each), dtype=float)) for name, each in features.items()}
    write_store(folder / "store", times, {})
    with h5py.File(folder / "features.hdf5", "w") as file:
        for name, each in features.items():
            # The store holds float16; the same numbers here.
            file.create_dataset(name, data=each.astype(np.float16).astype(np.float32))
    scenes = sorted({name.partition("__")[0] for name in features})
    pairs = [
        pair
        for scene in scenes[:8]
        for pair in ((scene, f"{scene}__1"), (f"{scene}__2", scene), (f"{scene}__1", f"{scene}__2"))
    ]
    negs = [name for name in features if name.partition("__")[0] in scenes[8:]]
    content = {
        "video_pairs": [{"videos": list(pair), "overlap": [0.7, 0.9]} for pair in pairs],
        "index": list(features),
        "negs": negs,
    }
    (folder / "vcdb.pickle").write_bytes(pickle.dumps(content, protocol=2))
    return Set(folder / "store", folder / "features.hdf5", folder / "vcdb.pickle")


def read(line: str | Sequence[str]) -> TcaPublished:
    words = line.split() if isinstance(line, str) else list(line)
    return parse(TcaPublished, words, prog="train/run.py", example="-")


def engine_of(size: int = 1, averages: int = 1) -> Any:
    return SimpleNamespace(size=size, rank=0, adasum_averages=averages)


# -- flags


def test_the_readme_line_is_understood_in_its_long_and_short_form() -> None:
    config = read(README_LINE)
    assert config == read(SHORT_LINE)
    assert (config.annotation_path, config.feature_path, config.output) == (
        Path("vcdb.pickle"), Path("FEATURES"), Path("OUT")
    )  # fmt: skip
    got = (config.neg_num, config.epochs, config.batch_sz, config.learning_rate, config.weight_decay, config.moco_k)
    assert got == (16, 40, 64, 1e-5, 1e-4, 4096)
    assert (config.moco_m, config.moco_t, config.use_adasum, config.fp16_allreduce) == (0.0, 1.0, True, True)
    assert recipe_named(README_LINE.split()) is recipe_named(SHORT_LINE.split()) is RECIPES["tca-published"]
    assert (
        recipe_named(["--annotation-path=x"]) is recipe_named(["--recipe", "tca-published"]) is RECIPES["tca-published"]
    )
    assert recipe_named(["--features", "x"]) is RECIPES["tca"]


def test_defaults_are_the_published_ones() -> None:
    config = read("-ap a -fp b -mp c")
    expected = {
        "output_dim": 1024, "num_layers": 1, "neg_num": 1, "epochs": 5, "batch_sz": 256, "learning_rate": 1e-4,
        "weight_decay": 1e-4, "pca_components": 1024, "padding_size": 300, "random_sampling": False,
        "num_workers": 4, "moco_k": 65536, "moco_m": 0.999, "moco_t": 0.07, "print_freq": 10,
        "fp16_allreduce": False, "use_adasum": False,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_batch_is_per_rank_and_the_rate_is_scaled_as_published() -> None:
    plain = README_LINE.replace(" --use-adasum", "")
    for ranks in (1, 2, 8):
        config = read(plain).resolve(engine_of(ranks))
        assert (config.batch_size, config.lr) == (64 * ranks, 1e-5 * ranks)
    # With Adasum once, and by the ranks of a machine where NCCL averages over these.
    assert read(README_LINE).resolve(engine_of(8)).lr == 1e-5
    assert read(README_LINE).resolve(engine_of(16, averages=8)).lr == pytest.approx(8e-5)


def test_flags_mean_what_they_meant() -> None:
    config = read(README_LINE).resolve(engine_of(2))
    assert (config.loss, config.temperature, config.circle_margin, config.circle_gamma) == (
        "circle-legacy",
        1,
        0.25,
        256,
    )
    assert (config.optimizer, config.weight_decay, config.weight_decay_on, config.clip_norm) == ("adam", 1e-4, "all", 0)
    assert (config.schedule, config.warmup_steps, config.epochs, config.accumulation) == ("cosine-epochs", 0, 40, 1)
    assert (config.aggregator, config.num_layers, config.num_heads, config.feedforward) == ("tca", 1, 8, 2048)
    assert (config.dropout, config.init, config.positions, config.final_norm, config.projection) == (
        0.2, "published", "none", False, 0
    )  # fmt: skip
    assert (config.queue_size, config.momentum, config.negatives_per_anchor, config.max_frames) == (4096, 0, 16, 300)
    assert not (config.batch_negatives or config.queue_positives or config.swap_pairs or config.random_sampling)
    assert (
        config.drop_last and config.mining == "none" and config.feature_edits == "none" and config.virtual_scenes == 0
    )
    assert (config.compression, config.reduction, config.log_every) == ("fp16", "adasum", 1)
    assert (config.num_workers, config.pca_components, config.recipe) == (1, 1024, "tca-published")
    other = read(f"{README_LINE} --random_sampling --moco_m 0.999 --num_layers 2 --seed 3 --resume never")
    assert other.resolve(engine_of()).random_sampling and other.resolve(engine_of()).momentum == 0.999
    assert (other.resolve(engine_of()).num_layers, other.resolve(engine_of()).seed) == (2, 3)
    assert other.resolve(engine_of()).resume == "never"


def test_flags_without_effect_are_named_only_if_given_and_change_nothing(published: Set, tmp_path: Path) -> None:
    of_it = "(as published: of NetVLAD, not of TCA); --momentum 0.9 (as published: the optimizer is Adam)"
    assert without_effect(read(SHORT_LINE), PUBLISHED_RULES, 2) == (
        f"--num-clusters 256, --normalize-input {of_it}; --num-readers 32 (as published)"
    )
    assert without_effect(read("-ap a -fp b -mp c"), PUBLISHED_RULES, 1) == ""
    alone = without_effect(read("-ap a -fp b -mp c --use-adasum --fp16-allreduce"), PUBLISHED_RULES, 1)
    assert alone == "--use-adasum, --fp16-allreduce (only with several ranks)"
    # What they say changes nothing: not even the run that is resumed.
    assert train(published.flags(tmp_path / "run", "--stop-after 2")) == 75
    assert train(published.flags(tmp_path / "run", "-nc 64 -ni --momentum 0.5 -nr 3")) == 0


def train(flags: list[str]) -> int:
    return run(RECIPES["tca-published"], read(flags))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("-od 512", "--output-dim 512"),
        ("-bs 0", "--batch-sz is 0"),
        ("--moco_t 0", "--moco-t is 0"),
        ("-nn 0", "--neg-num"),
        ("-nl 0", "--num-layers is 0"),
        ("-p 0", "--print-freq is 0"),
        ("--moco_m 1", "--moco-m is 1.0"),
        ("-wd -1", "--weight-decay is -1.0"),
        ("-lr inf", "--learning-rate is inf"),
    ],
)
def test_values_that_cannot_be_are_named(more: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read(f"-ap a -fp b -mp c {more}")
    assert stop.value.code == 2 and words in capfd.readouterr().err


def test_a_line_without_annotation_is_still_the_published_one(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["-fp", "f"], ["--model_path=m"], ["--feature-path", "f", "-mp", "m"]):
        assert recipe_named(words) is RECIPES["tca-published"]
        with pytest.raises(SystemExit):
            parse(recipe_named(words).config, words, prog="train/run.py", example="")
        assert "--annotation-path" in capfd.readouterr().err
    assert recipe_named(["--features", "f", "--output", "o"]) is RECIPES["tca"]


def test_features_of_another_dimension_are_refused_with_both(published: Set, tmp_path: Path) -> None:
    for source in (published.store, published.hdf5):
        with pytest.raises(UsageError, match=rf"{DIM} dimensions.*--pca-components is 64"):
            train(published.flags(tmp_path, "-od 64 -pc 64", fp=source))


# -- the run


def test_an_epoch_is_whole_batches_and_the_rate_falls_once_an_epoch(published: Set, tmp_path: Path) -> None:
    # 24 pairs by 7 are 3 batches; the other 3 pairs are left out.
    assert train(published.flags(tmp_path, "-bs 7 -e 5")) == 0
    rows = RunFolder(tmp_path).metrics()
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    expected = []
    for _ in range(5):
        expected += [schedule.get_last_lr()[0]] * 3
        optimizer.step()
        schedule.step()
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-12)
    assert json.loads((tmp_path / "outcome.json").read_text())["steps"] == 15


def test_the_hdf5_file_and_the_store_train_the_same_model(published: Set, tmp_path: Path) -> None:
    for name, source in (("store", published.store), ("hdf5", published.hdf5)):
        assert train(published.flags(tmp_path / name, "-e 1", fp=source)) == 0
    one, two = (load_model(tmp_path / name / "model").state_dict() for name in ("store", "hdf5"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_more_keys_than_the_queue_holds_are_no_obstacle(published: Set, tmp_path: Path) -> None:
    # 4 anchors with 12 negatives each are 48 keys a step; the published code stops unless they divide the queue.
    assert train(published.flags(tmp_path, "-nn 12 --moco_k 20")) == 0
    rows = RunFolder(tmp_path).metrics()
    assert [row["queue_fill"] for row in rows] == [1.0] * len(rows)
    assert [row["negatives_per_anchor"] for row in rows] == [0.0] + [20.0] * (len(rows) - 1)


# -- faithfulness


def test_the_reference_has_the_row_fault_of_the_worked_example() -> None:
    # s_p = 0.8, s_n = 0.6: row 0 has 256 * 0.45 * 0.05 = 5.76 and 256 * 0.65 * -0.15, other rows 147.84 and 76.16.
    rows = torch.tensor([[0.8, 0.6], [0.8, 0.6]], dtype=torch.float64)
    expected = np.mean([np.log1p(np.exp(-24.96 - 5.76)), np.log1p(np.exp(76.16 - 147.84))])
    assert float(circle_with_row_fault(rows)) == pytest.approx(expected, rel=1e-9)


def replay(folder: Path, ranks: int, flags: TcaPublished) -> None:
    """Train the reference on the batches that the ranks saw; losses, rates and final weights must be equal."""
    seen = [torch.load(folder / f"seen-{rank}.pt", weights_only=True) for rank in range(ranks)]
    layer = nn.TransformerEncoderLayer(DIM, 8, dim_feedforward=2048, dropout=0.0)
    encoder = nn.TransformerEncoder(layer, flags.num_layers, enable_nested_tensor=False).double()
    prefix = "encoder."
    encoder.load_state_dict({name.removeprefix(prefix): value for name, value in seen[0]["before"].items()})
    training = PublishedTraining(
        encoder, queue_size=flags.moco_k, temperature=flags.moco_t, momentum=flags.moco_m,
        lr=flags.learning_rate * ranks, weight_decay=flags.weight_decay, epochs=flags.epochs,
    )  # fmt: skip
    number = len(seen[0]["steps"])
    assert number == seen[0]["steps_per_epoch"] * flags.epochs > 6
    worst = 0.0
    for step in range(number):
        own = [each["steps"][step] for each in seen]
        assert own[0]["lr"] == pytest.approx(training.lr, rel=1e-12)
        losses = training.step([RankBatch(**rank["views"]) for rank in own])
        np.testing.assert_allclose([rank["loss"] for rank in own], losses, rtol=1e-7, atol=1e-9)
        worst = max(worst, *losses)
        if (step + 1) % seen[0]["steps_per_epoch"] == 0:
            training.end_epoch()
    assert worst > 0.1, "losses of nothing prove nothing"
    after = {name.removeprefix(prefix): value for name, value in seen[0]["after"].items()}
    for name, value in training.query.state_dict().items():
        moved = float((value - encoder.state_dict()[name]).abs().max())
        assert moved > 1e-4, f"{name} has not been trained"
        np.testing.assert_allclose(after[name].numpy(), value.numpy(), rtol=0, atol=1e-6 * moved, err_msg=name)


@pytest.mark.parametrize("more", ["", "--moco_m 0.9 --moco_t 0.5 -nl 2", "--moco_k 5 -bs 5 -rs -ps 3"])
def test_weights_after_epochs_equal_the_published_step_by_step(published: Set, tmp_path: Path, more: str) -> None:
    flags = published.flags(tmp_path / "run", more)
    record(tmp_path, flags)
    replay(tmp_path, 1, read(flags))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "horovod"])
def test_two_ranks_equal_two_published_ranks(published: Set, tmp_path: Path, launch: Launch, backend: str) -> None:
    # Each rank has a row 0 of its own, as published: no other number of ranks gives these weights.
    flags = published.flags(tmp_path / "run")
    finished = launch(backend, WORKER, tmp_path, *flags)
    assert finished.returncode == 0, finished.output[-4000:]
    replay(tmp_path, 2, read(flags))


# -- under the launchers


@pytest.mark.slow
def test_the_published_line_runs_to_its_end_on_two_ranks(published: Set, tmp_path: Path, launch: Launch) -> None:
    more = "-nc 256 -ni --momentum 0.9 -nr 32 --fp16-allreduce"
    finished = launch("horovod", RUN, *published.flags(tmp_path, more, fp=published.hdf5))
    assert finished.returncode == 0, finished.output[-4000:]
    assert finished.output.count("without effect") == 1
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["ranks"], outcome["steps"]) == (0, 2, 9)
    written = json.loads((tmp_path / "config.json").read_text())["config"]
    assert (written["batch_size"], written["lr"], written["compression"]) == (8, 2e-3, "fp16")


@pytest.mark.slow
def test_adasum_without_mpi_says_what_to_do(published: Set, tmp_path: Path, launch: Launch) -> None:
    for backend in ("horovod", "torch"):
        finished = launch(backend, RUN, *published.flags(tmp_path / backend, "--use-adasum"))
        assert finished.returncode != 0
        assert "horovodrun --mpi" in finished.output and "no --use-adasum" in finished.output
        # A launcher may show a traceback of its own; ours would name the exception.
        assert "UsageError" not in finished.output, finished.output[-3000:]
        assert json.loads((tmp_path / backend / "outcome.json").read_text())["exit_code"] == 2


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("ranks", [2, 8])
def test_adasum_over_mpi_runs_to_its_end_also_where_the_published_queue_stops(
    published: Set, tmp_path: Path, launch: Launch, ranks: int
) -> None:
    # On 8 ranks: 3 anchors with 3 negatives each are 72 keys a step, for 50 places.
    finished = launch(
        "mpi", RUN, *published.flags(tmp_path, "-bs 3 --use-adasum --fp16-allreduce"), ranks=ranks, timeout=280
    )
    assert finished.returncode == 0, finished.output[-4000:]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["ranks"], outcome["steps"]) == (ranks, 3 * (24 // (3 * ranks)))
    assert json.loads((tmp_path / "config.json").read_text())["config"]["lr"] == 1e-3


def test_the_help_and_the_usage_show_the_published_line(capfd: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--recipe", "tca-published", "--help"], 0), (["-ap", "x"], 2)):
        recipe = recipe_named(words)
        with pytest.raises(SystemExit) as stop:
            parse(recipe.config, words, prog="train/run.py", example=recipe.example)
        assert stop.value.code == code
        out, err = capfd.readouterr()
        wanted = ("-ap", "--moco-k", "--use-adasum", "--padding-size", "--resume") if code == 0 else ("--feature-path",)
        for text in (*wanted, "--annotation_path vcdb.pickle"):
            assert text in out + err
