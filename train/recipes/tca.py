"""Recipe ``tca``: a transformer over frame features, contrasted with a memory of other videos.

Source: Shao et al., "Temporal Context Aggregation for Video Retrieval with Contrastive Learning" (WACV 2021).

    horovodrun -np 2 train/run.py --recipe tca --features STORE --copies edits.csv --output run

What differs from the published code on purpose: the queue never holds random vectors, positives and all that is known
to show the same thing are never negatives, the batch's keys count at once, the key encoder has momentum, hard negatives
can be mined, the circle loss is that of its paper (the published one is ``circle-legacy``), training starts from mean
pooling (``init``), and few scenes are made many (``virtual_scenes``).

Hardware: two shared CPU cores do 300 steps of 64 anchors (5 to 20 frames of 128 dimensions) in 72 s. bfloat16 and GPUs
go through the same code but have not been run yet. Expected result (150 steps, flags of benchmarks/quality_variants.py,
everything held out once in four splits): copies of 48 painted scenes, 36 trained on, video-level mAP 0.914 against
0.872 of mean pooling; copies of 2 s moments of 12 real clips, 0.526 against 0.486.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...core.config import as_dict
from ...core.cores import share_of_cores
from ...core.engine import Engine
from ...core.engine.batch_norm import synchronise_batch_norm
from ...core.errors import UsageError
from ...core.seeds import seed_of
from ..checkpoint import NOT_RECORDED, num_parameters
from ..data.batches import BatchBuilder, ViewSettings
from ..data.feature_edits import edits_of_strength
from ..data.findings import Finding, Findings
from ..data.labels import LABEL_FILES, Labels, LabelSettings, read_groups, read_pairs
from ..data.positives import Positives, groups_of, match_labels
from ..data.sampling import GlobalSampler, SamplingSettings
from ..data.sources import OpenedFeatures, rejected
from ..models.aggregators import AggregatorSettings, out_dim
from ..objective.contrast import ContrastSettings, ContrastTask
from ..objective.losses import LossSettings, build_loss
from ..objective.memory_queue import MemoryQueue
from ..objective.mining import MiningSettings
from ..objective.momentum import KeyEncoder
from ..running.loop import Trainer
from ..running.settings import FREE_FIELDS, LoopConfig
from ..running.validation import Validator, choose_held_out

EXAMPLE = "horovodrun -np 2 train/run.py --recipe tca --features store --copies edits.csv --output run"
FEW_GROUPS = 500
"""Below this many groups of videos, pairs are moved to virtual scenes unless the user says otherwise."""


@dataclass(frozen=True, kw_only=True)
class TcaRecipe(
    ContrastSettings,
    MiningSettings,
    LossSettings,
    AggregatorSettings,
    ViewSettings,
    SamplingSettings,
    LabelSettings,
    LoopConfig,
):
    """Train a video model on a feature store."""

    features: Path
    """Feature store made by extract/run.py, or an HDF5 file with a dataset [frames, dimensions] per video id."""
    pca_components: int | None = None
    """Dimension that the features must have; others are refused. Default: any."""
    recipe: Literal["tca", "tca-published"] = "tca"
    """tca has the flags shown here. tca-published has those of TCA's published command line (--recipe tca-published
    --help) and is taken without asking where one of them is given, such as --annotation_path."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_size and not (self.queue_positives or self.negatives_per_anchor):
            raise UsageError("--no-queue-positives leaves the queue empty; draw negatives: --negatives-per-anchor 16")
        if self.negatives is not None and not self.negatives_per_anchor:
            raise UsageError("--negatives names videos of which none is drawn; give --negatives-per-anchor 16 as well")
        if self.loss == "supcon" and self.virtual_scenes:
            raise UsageError(
                f"--virtual-scenes {self.virtual_scenes} with --loss supcon: videos of a group that were moved to "
                "different places show the same no longer, yet would be positives; leave it out, or choose another loss"
            )


@dataclass(frozen=True)
class Built:
    """A recipe's parts, ready to train.

    Attributes:
        trainer: the loop.
        positives: what is trained on.
        findings: what was odd about features and labels, for people.
        facts: for the model's card.
    """

    trainer: Trainer
    positives: Positives
    findings: tuple[Finding, ...]
    facts: dict[str, Any]


def build(config: TcaRecipe, store: OpenedFeatures, engine: Engine) -> Built:
    """Make the parts of the recipe.

    Raises:
        UsageError, ReelkinError: a setting does not fit the features, or nothing is left to train on.
    """
    torch.set_num_threads(config.threads or share_of_cores())
    labels = config.read_labels()
    held_out, oddities = _held_out(config, store, labels)
    positives = match_labels(
        store.video_ids,
        labels,
        frozenset(held_out),
        negatives=config.read_negatives(),
        swap_pairs=config.swap_pairs,
        max_missing_share=config.max_missing_share,
    )
    if not positives.has_negatives(config.negatives_per_anchor > 0):
        raise UsageError(
            f"{positives.summary}: all of them show the same thing, so no anchor has a negative and nothing is learnt. "
            "Give labels of several groups, or --negatives-per-anchor 16 if the features hold other videos too"
        )
    model = build_model(config, store.dim).to(engine.device)
    synchronise_batch_norm(model, engine)
    sampler = GlobalSampler(positives.num_items, config.batch_size, config.seed, drop_last=config.drop_last)
    builder = BatchBuilder(
        store,
        positives,
        sampler,
        rank=engine.rank,
        size=engine.size,
        seed=config.seed,
        max_frames=config.max_frames,
        edits=edits_of_strength(strength_of_edits(config)),
        virtual_scenes=virtual_scenes(config, positives),
        negatives_per_anchor=config.negatives_per_anchor,
        random_sampling=config.random_sampling,
        num_workers=config.num_workers,
    )
    steps = config.steps or sampler.steps_of(config.epochs)
    task = ContrastTask(
        engine,
        model,
        builder,
        build_loss(config),
        MemoryQueue(config.queue_size, out_dim(model), positives.groups.shape[1], engine.device),
        KeyEncoder(model, config.momentum),
        config,
        config,
        Validator(store, held_out, engine) if held_out else None,
        steps=steps,
    )
    identity = {"config": identity_of(config), "features": store.digest(), "labels": positives.digest()}
    trainer = Trainer(engine, task, config, steps, identity, sampler.epoch)
    findings = rejected(store) + positives.findings + oddities
    return Built(trainer, positives, findings, _facts(config, store, positives, model, steps))


def strength_of_edits(config: TcaRecipe) -> str:
    """The strength of feature edits that ``auto`` stands for."""
    if config.feature_edits != "auto":
        return config.feature_edits
    return "light" if config.copies or config.pseudo_labels else "none" if config.labelled() else "medium"


def virtual_scenes(config: TcaRecipe, positives: Positives) -> float:
    """The share of moved pairs that a missing ``--virtual-scenes`` stands for."""
    if config.virtual_scenes is not None:
        return config.virtual_scenes
    if config.loss == "supcon":  # takes what other pairs of a group left in batch and queue for positives
        return 0.0
    return 1.0 if len(np.unique(positives.groups[positives.anchors, 0])) < FEW_GROUPS else 0.0


def build_model(config: TcaRecipe, dim: int) -> nn.Module:
    """The aggregator with weights that depend on the seed alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "model"))
        return config.make_aggregator(dim)


def identity_of(config: LoopConfig) -> dict[str, Any]:
    """The fields on which the result depends; label files count by content, elsewhere."""
    free = FREE_FIELDS | {*LABEL_FILES, "validate_groups", "validate_pairs", "negatives"}
    return {name: value for name, value in as_dict(config).items() if name not in free}


def _held_out(
    config: TcaRecipe, store: OpenedFeatures, labels: Labels | None
) -> tuple[dict[str, int], tuple[Finding, ...]]:
    """Group number by held-out video, and what was odd about the file that names them."""
    file = config.validate_groups or config.validate_pairs
    if file is not None:
        held = read_groups(file) if config.validate_groups is not None else read_pairs(file)
        known = groups_of([], held)
        findings = Findings()
        findings.add_all(
            f"videos of {file.name} without features, left out", (each for each in known if each not in store)
        )
        stored = {video_id: number for video_id, number in known.items() if video_id in store}
        if not stored:
            raise UsageError(f"none of the {len(known)} videos of {file} has features; check that its ids are theirs")
        return stored, held.findings + findings.listed()
    if config.hold_out and labels is not None:
        known = groups_of(store.video_ids, labels)
        stored = {video_id: known[video_id] for video_id in store.video_ids}
        return choose_held_out(stored, config.hold_out, config.seed), ()
    if config.patience:
        raise UsageError(
            f"--patience {config.patience} without held-out videos, which are what it goes by: leave it out, or give "
            "--validate-groups FILE (recipe tca also --validate-pairs FILE, --hold-out SHARE)"
        )
    return {}, ()


def _facts(
    config: TcaRecipe, store: OpenedFeatures, positives: Positives, model: nn.Module, steps: int
) -> dict[str, Any]:
    return {
        "recipe": config.recipe,
        "trained on": f"{len(positives.video_ids)} videos: {positives.summary}",
        "features": store.digest(),
        "frame encoder": store.info.get("encoder") or NOT_RECORDED,
        "PCA": (store.info["pca"] or {}).get("sha256", "none") if "pca" in store.info else NOT_RECORDED,
        "loss": config.loss,
        "steps": steps,
        "global batch": config.batch_size,
        "parameters": num_parameters(model),
    }
