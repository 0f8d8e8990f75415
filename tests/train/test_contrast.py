"""A step of contrast against the same step written out video by video, and in parts against in one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reelkin.core.engine import start
from reelkin.core.errors import UsageError
from reelkin.train.data.batches import Batch, Views
from reelkin.train.data.sources import open_features
from reelkin.train.objective.contrast import ContrastTask, chunks_by_length, sees_batch_whole
from reelkin.train.objective.losses import LOSSES
from reelkin.train.recipes.tca import TcaRecipe, build

from .conftest import Data


@contextlib.contextmanager
def task_of(data: Data, folder: Path, dtype: torch.dtype = torch.float64, **fields: Any) -> Iterator[ContrastTask]:
    """The task of a small recipe, alone, computing in ``dtype``."""
    small: dict[str, Any] = {
        "batch_size": 11, "steps": 6, "queue_size": 30, "negatives_per_anchor": 1, "feedforward": 16, "dropout": 0.3,
        "init": "published", "momentum": 0.5, "threads": 1,
    }  # fmt: skip
    config = TcaRecipe(features=data.store, copies=data.copies, output=folder, **(small | fields))
    with start() as engine:
        task = build(config, open_features(config.features), engine).trainer.task
        assert isinstance(task, ContrastTask)
        task.model.to(dtype)
        task.key_encoder.module.to(dtype)
        task.queue.keys = task.queue.keys.to(dtype)
        task.model.train()
        yield task


def gradients(task: ContrastTask) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in task.model.named_parameters()}  # type: ignore[union-attr]


def move(task: ContrastTask) -> None:
    """A plain update, so that the next step has other weights."""
    with torch.no_grad():
        for parameter in task.model.parameters():
            assert parameter.grad is not None
            parameter -= 0.05 * parameter.grad
    task.updated()


def run(task: ContrastTask, steps: int, parts: int) -> list[tuple[torch.Tensor, dict[str, float], dict[str, Any]]]:
    """Losses of all anchors, sums and gradients of some steps."""
    found = []
    for batch in task.batches(range(steps)):
        task.model.zero_grad()
        values, sums = [], {}
        for part in task.losses(batch, parts):
            part.per_anchor.sum().backward()
            values.append(part.per_anchor.detach())
            sums = {name: sums.get(name, 0.0) + value for name, value in part.sums.items()}
        assert len(values) == min(parts, len(batch.anchors))
        found.append((torch.cat(values), sums, gradients(task)))
        move(task)
    return found


@pytest.mark.parametrize(("loss", "parts"), [*((loss, 3) for loss in LOSSES), ("circle-legacy", 64)])
def test_parts_give_the_losses_and_gradients_of_the_whole(data: Data, tmp_path: Path, loss: str, parts: int) -> None:
    mining = {"mining": "distance-weighted", "mined_negatives": 12, "mined_share_start": 0.5, "mined_share_end": 1.0}
    results = []
    for number, count in enumerate((1, parts)):
        with task_of(data, tmp_path / str(number), loss=loss, **mining) as task:
            results.append(run(task, 3, count))
    for (one, one_sums, one_gradients), (two, two_sums, two_gradients) in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        assert one_sums == pytest.approx(two_sums)
        for name in one_gradients:
            torch.testing.assert_close(one_gradients[name], two_gradients[name], rtol=1e-7, atol=1e-10)
    assert max(float(each.abs().max()) for each in results[0][-1][2].values()) > 1e-4


# -- the same step, written out


def each_view(views: Views) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, set[int], int]]:
    """Every video by itself, without padding: features, length, dropout key, groups, first group."""
    begin = 0
    for length, key, groups in zip(views.lengths.tolist(), views.keys, views.groups.tolist(), strict=True):
        frames = views.frames[begin : begin + length].double()
        begin += length
        yield frames[None], torch.tensor([length]), key[None], {each for each in groups if each >= 0}, groups[0]


def shares(positive: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    """-log of the positive's share of all exponentials."""
    return -torch.log(torch.exp(positive) / (torch.exp(positive) + sum(torch.exp(each) for each in others)))


def circle_logit(s: torch.Tensor, weight: torch.Tensor, offset: float) -> torch.Tensor:
    return 16 * weight.detach().clamp(min=0) * (s - offset)


def written_info_nce(row: int, p: torch.Tensor, further: list[torch.Tensor], n: list[torch.Tensor]) -> torch.Tensor:
    return shares(p / 0.07, [each / 0.07 for each in n])


def written_circle(row: int, p: torch.Tensor, further: list[torch.Tensor], n: list[torch.Tensor]) -> torch.Tensor:
    return shares(circle_logit(p, 1.25 - p, 0.75), [circle_logit(each, each + 0.25, 0.25) for each in n])


def written_legacy(row: int, p: torch.Tensor, further: list[torch.Tensor], n: list[torch.Tensor]) -> torch.Tensor:
    if row == 0:
        return shares(circle_logit(p, 1.25 - p, 0.75), [circle_logit(each, 1.25 - each, 0.75) for each in n])
    return shares(circle_logit(p, p + 0.25, 0.25), [circle_logit(each, each + 0.25, 0.25) for each in n])


def written_triplet(row: int, p: torch.Tensor, further: list[torch.Tensor], n: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([(0.2 + each - p).clamp(min=0) for each in n]).mean()


def written_supcon(row: int, p: torch.Tensor, further: list[torch.Tensor], n: list[torch.Tensor]) -> torch.Tensor:
    positives = [each / 0.07 for each in [p, *further]]
    others = [each / 0.07 for each in n]
    terms = [shares(each, positives[:at] + positives[at + 1 :] + others) for at, each in enumerate(positives)]
    return torch.stack(terms).mean()


WRITTEN: dict[str, Callable[[int, torch.Tensor, list[torch.Tensor], list[torch.Tensor]], torch.Tensor]] = {
    "info-nce": written_info_nce,
    "circle": written_circle,
    "circle-legacy": written_legacy,
    "triplet": written_triplet,
    "supcon": written_supcon,
}

Memory = list[tuple[torch.Tensor, set[int], int]]


def written_step(
    loss: str, batch: Batch, model: nn.Module, keys: nn.Module, memory: Memory, hardest: int, at_once: bool
) -> tuple[torch.Tensor, Memory]:
    """Losses of the anchors, one comparison after the other, and the keys to be remembered."""
    assert batch.negatives is not None
    with torch.no_grad():
        fresh = [
            [(keys(*view[:3])[0], view[3], view[4]) for view in each_view(views)]
            for views in (batch.positives, batch.negatives)
        ]
    losses = []
    for row, (features, lengths, key, groups, first) in enumerate(each_view(batch.anchors)):
        query = model(features, lengths, key)[0]
        others = [each for at, each in enumerate(fresh[0]) if at != row] + fresh[1] if at_once else []
        further = [query @ each for each, _, other in others + memory if other == first]
        negative = sorted((query @ each for each, known, _ in others + memory if not known & groups), reverse=True)
        known = negative[:hardest]
        own = query @ fresh[0][row][0]
        losses.append(WRITTEN[loss](row, own, further, known) if known or (loss == "supcon" and further) else own * 0)
    return torch.stack(losses), fresh[0] + fresh[1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("queue_size", "momentum", "mining", "at_once"),
    [(30, 0.9, "none", True), (9, 0.0, "topk", True), (50, 0.0, "none", False)],
)
def test_steps_equal_the_same_written_out(
    data: Data, tmp_path: Path, loss: str, queue_size: int, momentum: float, mining: str, at_once: bool
) -> None:
    fields: dict[str, Any] = {"queue_size": queue_size, "momentum": momentum, "batch_negatives": at_once}
    fields |= {"mining": mining, "mined_negatives": 7, "frames_at_once": 20}
    if "circle" in loss:
        fields["circle_gamma"] = 16.0
    memory: Memory = []
    with task_of(data, tmp_path, loss=loss, **fields) as task:
        for batch in task.batches(range(3)):  # 22 keys a step, so that every queue wraps
            task.model.zero_grad()
            hardest = 7 if mining == "topk" else 10**6
            expected, fresh = written_step(loss, batch, task.model, task.key_encoder.module, memory, hardest, at_once)
            if expected.requires_grad:
                expected.sum().backward()
            by_hand = {
                name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                for name, parameter in task.model.named_parameters()
            }
            task.model.zero_grad()
            (part,) = task.losses(batch, 1)
            part.per_anchor.sum().backward()
            torch.testing.assert_close(part.per_anchor, expected, rtol=1e-8, atol=1e-10)
            for name, found in gradients(task).items():
                torch.testing.assert_close(found, by_hand[name], rtol=1e-6, atol=1e-9)
            move(task)
            memory = (memory + fresh)[-queue_size:]
            held = task.queue.keys[: task.queue.count]
            assert sorted(held.sum(1).tolist()) == pytest.approx(sorted(float(key.sum()) for key, _, _ in memory))
        assert max(float(found.abs().max()) for found in by_hand.values()) > 1e-4


# -- keys in chunks


@pytest.mark.parametrize("frames", [1, 7, 20, 10**6])
def test_chunks_hold_every_row_once_and_little_padding(frames: int) -> None:
    lengths = torch.tensor([3, 9, 1, 5, 9, 2, 2, 7])
    chunks = chunks_by_length(lengths, frames)
    assert sorted(torch.cat(chunks).tolist()) == list(range(8))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * int(lengths[chunk].max()) <= frames
    tops = [int(lengths[chunk].max()) for chunk in chunks]
    bottoms = [int(lengths[chunk].min()) for chunk in chunks]
    assert all(below >= above for below, above in zip(bottoms, tops[1:], strict=False))


def test_no_more_frames_than_allowed_pass_at_once_and_the_keys_are_the_same(data: Data, tmp_path: Path) -> None:
    results, seen = [], []
    for frames in (10**6, 40):
        with task_of(data, tmp_path / str(frames), frames_at_once=frames, negatives_per_anchor=6, momentum=0.9) as task:

            def remember(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
                seen.append(arguments[0].shape[0] * arguments[0].shape[1])

            task.key_encoder.module.register_forward_pre_hook(remember)
            seen.clear()
            results.append(run(task, 2, 1))
            if frames == 40:
                assert len(seen) > 20 and max(seen) <= 40
            else:
                assert len(seen) == 4 and max(seen) > 300
    for (one, _, one_gradients), (two, _, two_gradients) in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        for name in one_gradients:
            torch.testing.assert_close(one_gradients[name], two_gradients[name], rtol=1e-7, atol=1e-10)


def test_batch_norm_sees_a_batch_whole(data: Data, tmp_path: Path) -> None:
    assert not sees_batch_whole(nn.Linear(2, 2)) and sees_batch_whole(nn.Sequential(nn.BatchNorm1d(2)))
    with task_of(data, tmp_path) as task:
        task._whole = True
        batch = next(iter(task.batches(range(1))))
        with pytest.raises(UsageError, match="--accumulation 2"):
            list(task.losses(batch, 2))
        assert len(list(task.losses(batch, 1))) == 1


def test_bfloat16_trains_every_weight(data: Data, tmp_path: Path) -> None:
    # With shared weights: a cast that was made for keys, without gradient, must not serve the anchors.
    found = []
    for precision in ("float32", "bfloat16"):
        fields = {"precision": precision, "momentum": 0.0, "dropout": 0.0}
        with task_of(data, tmp_path / precision, torch.float32, **fields) as task:
            found.append(run(task, 2, 2))
    for (one, _, one_gradients), (two, _, two_gradients) in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0.1, atol=0.1)
        for name, gradient in one_gradients.items():
            if float(gradient.norm()) > 1e-3:
                cosine = torch.cosine_similarity(gradient.flatten(), two_gradients[name].flatten(), dim=0)
                assert float(cosine) > 0.95, name


def test_what_is_logged_are_the_means_over_the_anchors(data: Data, tmp_path: Path) -> None:
    with task_of(data, tmp_path, mining="topk", mined_negatives=4) as task:
        found = run(task, 3, 2)
        values, sums, _ = found[-1]
        row = task.report({**sums, "anchors": float(len(values))})
    assert row["negatives_used"] == 4 and row["queue_fill"] == 1
    assert row["negative_similarity"] < row["mined_similarity"] <= row["hardest_similarity"] <= 1
    assert row["negatives_per_anchor"] > 30 and 0 <= row["positive_first"] <= 1


def test_without_mined_negatives_their_similarity_is_not_logged(data: Data, tmp_path: Path) -> None:
    with task_of(data, tmp_path, mining="topk", mined_share_start=0.0) as task:
        values, sums, _ = run(task, 1, 1)[0]
        assert "mined_similarity" not in task.report({**sums, "anchors": float(len(values))})


def test_a_step_without_negatives_logs_no_means_over_them(data: Data, tmp_path: Path) -> None:
    with task_of(data, tmp_path, batch_negatives=False) as task:
        (values, sums, _), (later, later_sums, _) = run(task, 2, 1)
        row = task.report({**sums, "anchors": float(len(values))})
        names = {"negative_similarity", "hardest_similarity", "positive_first"}
        assert row["negatives_per_anchor"] == 0 and not names & row.keys()
        assert names <= task.report({**later_sums, "anchors": float(len(later))}).keys()


def test_mining_from_a_kind_that_is_not_there_is_refused_at_once(data: Data, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="--mining-from background"),
        task_of(data, tmp_path, mining="topk", mining_from="background"),
    ):
        pass


def test_groups_that_are_scattered_are_no_positives_of_supervised_contrast(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--virtual-scenes 0.5 with --loss supcon"):
        TcaRecipe(features=data.store, output=tmp_path, loss="supcon", virtual_scenes=0.5)
    with task_of(data, tmp_path / "supcon", loss="supcon") as task:
        assert task.builder.virtual_scenes == 0
    with task_of(data, tmp_path / "other") as task:
        assert task.builder.virtual_scenes == 1
