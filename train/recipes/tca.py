"""Recipe ``tca``: a transformer over frame features, contrasted with a memory of other videos.

Source: Shao et al., "Temporal Context Aggregation for Video Retrieval with Contrastive Learning" (WACV 2021).

    horovodrun -np 2 train/run.py --recipe tca --features STORE --copies edits.csv --output run

What differs from the published code on purpose: the queue never holds random vectors, positives and all that is known
to show the same thing are never negatives, the batch's keys count at once, the key encoder has momentum, hard negatives
can be mined, the circle loss is that of its paper (the published one is ``circle-legacy``), training starts from mean
pooling (``init``), and few scenes are made many (``virtual_scenes``).

Hardware: two shared CPU cores do 300 steps of 64 anchors (5 to 20 frames of 128 dimensions) in 72 s. bfloat16 and GPUs
go through the same code but have not been run yet. Expected result, on 12 held-out procedural scenes with six edited
copies each: video-level mAP 0.618 against 0.593 of mean pooling.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...core.config import as_dict
from ...core.engine import Engine
from ...core.errors import UsageError
from ...core.seeds import seed_of
from ...extract.store import FeatureStore
from ..checkpoint import num_parameters
from ..data.batches import BatchBuilder
from ..data.feature_edits import edits_of_strength
from ..data.labels import Labels, copies_in_groups, read_copies, read_groups, read_pairs, read_vcdb
from ..data.positives import Positives, groups_of, match_labels
from ..data.sampling import GlobalSampler
from ..models.aggregators import build_aggregator
from ..objective.contrast import ContrastSettings, ContrastTask
from ..objective.losses import LossConfig, build_loss
from ..objective.memory_queue import MemoryQueue
from ..objective.momentum import KeyEncoder
from ..running.loop import FREE_FIELDS, LoopConfig, Trainer
from ..running.validation import Validator, choose_held_out

FEW_GROUPS = 500
"""Below this many groups of videos, pairs are moved to virtual scenes unless the user says otherwise."""


@dataclass(frozen=True, kw_only=True)
class TcaRecipe(LoopConfig):
    """Train a video model on a feature store."""

    features: Path
    """Feature store made by extract/run.py."""
    recipe: Literal["tca"] = "tca"
    """Which recipe."""
    pairs: Path | None = None
    """CSV with the columns query,video or anchor,positive: annotated pairs."""
    groups: Path | None = None
    """CSV with the columns video_id,group: videos of a group show the same thing."""
    copies: Path | None = None
    """edits.csv of shards/edits.py: each source and its edited copies are a group; with --groups, the sources' groups
    join them."""
    vcdb: Path | None = None
    """VCDB's training annotation (vcdb.pickle): pairs and background videos. Without any label file, positives are
    edits of the features themselves."""
    validate_groups: Path | None = None
    """CSV with the columns video_id,group: held out of training, and retrieved now and then."""
    hold_out: float = 0.0
    """Share of the labelled groups to hold out for the same purpose; 0 holds out none."""
    feature_edits: Literal["auto", "none", "light", "medium", "strong"] = "auto"
    """Edits of the features (crop, speed, dropped and shuffled parts, noise) on anchors and positives. auto: medium
    without labels, light with copies, none with pairs or groups."""
    virtual_scenes: float | None = None
    """Share of the pairs that are moved to a random place in feature space, anchor and positive alike, so that few
    scenes teach what edits do rather than what these scenes are. Default: 1 below 500 groups, else 0."""
    max_frames: int = 128
    """Longer videos are cut to a random window of this many frames in training; validation takes them whole."""
    negatives_per_anchor: int = 0
    """Videos drawn for each anchor besides its positive; they become candidates and enter the queue."""
    num_layers: int = 1
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads; must divide the features' dimension."""
    feedforward: int = 2048
    """Width of the transformer's feed-forward branch."""
    dropout: float = 0.1
    """Dropout of the transformer; the same for a video whatever the number of ranks."""
    init: Literal["identity", "published"] = "identity"
    """Starting weights: identity starts from mean pooling, published from random mixing, which needs much data."""
    loss: Literal["info-nce", "circle", "circle-legacy", "triplet"] = "info-nce"
    """Loss function."""
    temperature: float = 0.07
    """Similarities are divided by it in info-nce."""
    circle_margin: float = 0.25
    """Margin m of the circle losses."""
    circle_gamma: float = 256.0
    """Scale of the circle losses."""
    triplet_margin: float = 0.2
    """Margin of the triplet loss, in cosine."""
    queue_size: int = 4096
    """Keys remembered from earlier steps as negatives; 0 for none. Any size goes with any batch."""
    momentum: float = 0.95
    """Of the key encoder, 0 to below 1. 0 shares the trained weights, as published; with a queue of many steps all
    embeddings may then drift together away from remembered ones, which lowers the loss and teaches nothing."""
    batch_negatives: bool = True
    """Other videos of the same global batch are negatives too."""
    queue_positives: bool = True
    """Positives' keys enter the queue; off, only drawn negatives do, as published (then set --negatives-per-anchor)."""
    mining: Literal["none", "topk", "semi-hard"] = "none"
    """Which negatives enter the loss: all, the k most similar, or the k most similar below the positive."""
    mined_negatives: int = 64
    """k of the mining."""
    mining_margin: float = 0.2
    """Width of the semi-hard band, in cosine."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; meant for GPUs, not yet run on one."""
    threads: int = 0
    """CPU threads of each rank; 0: the cores shared among the ranks of a machine."""
    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """What connects the ranks; auto goes by the launcher."""
    deadline: float = 300.0
    """Seconds that ranks wait for one another before the run is ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("pairs", "groups", "copies", "vcdb") if getattr(self, name) is not None]
        if len(given) > 1 and given != ["groups", "copies"]:
            raise UsageError(f"--{' and --'.join(given)} were given; choose one (--groups and --copies go together)")
        if self.hold_out and (self.validate_groups or not given):
            raise UsageError("--hold-out takes its groups from a label file and cannot go with --validate-groups")
        if self.max_frames < 1 or self.negatives_per_anchor < 0:
            raise UsageError("--max-frames must be at least 1 and --negatives-per-anchor at least 0")
        if self.virtual_scenes is not None and not 0 <= self.virtual_scenes <= 1:
            raise UsageError(f"--virtual-scenes is {self.virtual_scenes}; it is a share of the pairs, 0 to 1")
        if not (self.batch_negatives or self.queue_size):
            raise UsageError("--no-batch-negatives with --queue-size 0 leaves no negatives; give one of them")
        if self.queue_size and not (self.queue_positives or self.negatives_per_anchor):
            raise UsageError("--no-queue-positives leaves the queue empty; draw negatives: --negatives-per-anchor 16")

    def edits(self) -> str:
        """The strength of feature edits that ``auto`` stands for."""
        if self.feature_edits != "auto":
            return self.feature_edits
        return "light" if self.copies else "none" if self.labelled() else "medium"

    def labelled(self) -> bool:
        """Whether a label file was given."""
        return any(path is not None for path in (self.pairs, self.groups, self.copies, self.vcdb))

    def read_labels(self) -> Labels | None:
        """The content of the label file or files."""
        if self.groups is not None and self.copies is not None:
            return copies_in_groups(read_copies(self.copies), read_groups(self.groups))
        for path, read in (
            (self.pairs, read_pairs), (self.groups, read_groups), (self.copies, read_copies), (self.vcdb, read_vcdb)
        ):  # fmt: skip
            if path is not None:
                return read(path)
        return None


@dataclass(frozen=True)
class Built:
    """A recipe's parts, ready to train.

    Attributes:
        trainer: the loop.
        positives: what is trained on.
        facts: for the model's card.
    """

    trainer: Trainer
    positives: Positives
    facts: dict[str, Any]


def build(config: TcaRecipe, store: FeatureStore, engine: Engine) -> Built:
    """Make the parts of the recipe.

    Raises:
        UsageError, ReelkinError: a setting does not fit the features, or nothing is left to train on.
    """
    set_threads(config.threads, engine)
    labels = config.read_labels()
    held_out = _held_out(config, store, labels)
    positives = match_labels(store.video_ids, labels, frozenset(held_out))
    model = build_model(config, store.dim).to(engine.device)
    sampler = GlobalSampler(positives.num_items, config.batch_size, config.seed)
    builder = BatchBuilder(
        store,
        positives,
        sampler,
        rank=engine.rank,
        size=engine.size,
        seed=config.seed,
        max_frames=config.max_frames,
        edits=edits_of_strength(config.edits()),
        virtual_scenes=virtual_scenes(config, positives),
        negatives_per_anchor=config.negatives_per_anchor,
    )
    task = ContrastTask(
        engine,
        model,
        builder,
        build_loss(LossConfig(**{name: getattr(config, name) for name in LossConfig.__dataclass_fields__})),
        MemoryQueue(config.queue_size, store.dim, positives.groups.shape[1], engine.device),
        KeyEncoder(model, config.momentum),
        ContrastSettings(
            mining=config.mining,
            mined_negatives=config.mined_negatives,
            mining_margin=config.mining_margin,
            batch_negatives=config.batch_negatives,
            queue_positives=config.queue_positives,
            bfloat16=config.precision == "bfloat16",
        ),
        Validator(store, held_out, engine) if held_out else None,
    )
    steps = config.steps or sampler.steps_of(config.epochs)
    identity = {"config": identity_of(config), "features": store_digest(store), "labels": positives.digest()}
    trainer = Trainer(engine, task, config, steps, identity)
    return Built(trainer, positives, _facts(config, store, positives, model, steps))


def virtual_scenes(config: TcaRecipe, positives: Positives) -> float:
    """The share of moved pairs that a missing ``--virtual-scenes`` stands for."""
    if config.virtual_scenes is not None:
        return config.virtual_scenes
    return 1.0 if len(np.unique(positives.groups[positives.anchors, 0])) < FEW_GROUPS else 0.0


def build_model(config: TcaRecipe, dim: int) -> nn.Module:
    """The TCA model with weights that depend on the seed alone; torch's global generator is left as it was."""
    names = ("num_layers", "num_heads", "feedforward", "dropout", "init")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "model"))
        return build_aggregator("tca", {"dim": dim, **{name: getattr(config, name) for name in names}})


def identity_of(config: LoopConfig) -> dict[str, Any]:
    """The fields on which the result depends; label files count by content, elsewhere."""
    paths = {"pairs", "groups", "copies", "vcdb", "validate_groups"}
    return {name: value for name, value in as_dict(config).items() if name not in FREE_FIELDS | paths}


def store_digest(store: FeatureStore) -> str:
    """sha256 (hex) of what a store's features are: dimension and the blocks' hashes."""
    content = [store.dim, [block["sha256"] for block in store.info["blocks"]]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def set_threads(threads: int, engine: Engine) -> None:
    """Share the machine's cores among its ranks. torchrun would leave one thread each, horovodrun all to everyone."""
    here = socket.gethostname()
    ranks = engine.all_gather_object(here, "hosts").count(here)
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // ranks))


def _held_out(config: TcaRecipe, store: FeatureStore, labels: Labels | None) -> dict[str, int]:
    """Group number by held-out video."""
    if config.validate_groups is not None:
        held = read_groups(config.validate_groups)
        return {video_id: number for video_id, number in groups_of([], held).items() if video_id in store}
    if config.hold_out and labels is not None:
        known = groups_of(store.video_ids, labels)
        stored = {video_id: known[video_id] for video_id in store.video_ids}
        return choose_held_out(stored, config.hold_out, config.seed)
    return {}


def _facts(
    config: TcaRecipe, store: FeatureStore, positives: Positives, model: nn.Module, steps: int
) -> dict[str, Any]:
    encoder = store.info.get("encoder") or {}
    return {
        "recipe": config.recipe,
        "trained on": f"{len(positives.video_ids)} videos: {positives.summary}",
        "features": store_digest(store),
        "frame encoder": encoder or "not recorded",
        "PCA": (store.info.get("pca") or {}).get("sha256", "none"),
        "loss": config.loss,
        "steps": steps,
        "global batch": config.batch_size,
        "parameters": num_parameters(model),
    }
