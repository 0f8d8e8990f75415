"""Recipe ``tca-published``: TCA's training command as its authors published it, flag by flag, made to run.

Source: Shao et al., "Temporal Context Aggregation for Video Retrieval with Contrastive Learning" (WACV 2021), and the
code and README that came with it. The README's line, on two ranks (over MPI, which Adasum needs):

    horovodrun -np 2 -H localhost:2 train/run.py --annotation_path vcdb.pickle --feature_path FEATURES --model_path OUT
        --num_clusters 256 --num_layers 1 --output_dim 1024 --normalize_input --neg_num 16 --epochs 40 --batch_sz 64
        --learning_rate 1e-5 --momentum 0.9 --weight_decay 1e-4 --pca_components 1024 --padding_size 300
        --num_readers 32 --num_workers 1 --moco_k 4096 --moco_m 0. --moco_t 1.0 --print-freq 1 --use-adasum
        --fp16-allreduce

As published: anchor and positive are the annotated pair in its order; the negatives are ``neg_num`` background videos
an anchor, which enter the queue after the loss and count from the next step on, while positives never enter it; dropout
of 0.2 on anchors and keys; the circle loss with its row fault; Adam with decay added to the gradient, on all
parameters; a cosine by the epoch, to 0; no warm-up and no clipping; the last, incomplete batch of an epoch is left out.

Where it departs, and why:

* The queue is a ring that takes any number of keys a step. The published one stops at the first step wherever
  ``moco_k`` is no multiple of the keys of a step, as on the eight GPUs that its README names (8192 keys, 4096 slots).
* Slots that hold nothing are masked; published, random vectors fill them and act as negatives. Hence the first step has
  nothing to compare with; its gradient is the decay alone, from which Adam makes a step of the full learning rate.
* Videos of the anchor's connected component are never its negatives. With VCDB's own background, none is.
* Frames are cut at any window, the last one included, and everything random follows from ``seed``, the step and the
  place in the batch; published, one generator was unseeded and all ranks and workers drew the same windows.
* Horovod's own optimizer first takes a step without gradients, by decay alone, and its Adasum combines Adam's steps and
  leaves each rank another optimizer state. Here Adasum combines the gradients, before Adam (see docs/engine.md).
* With ``moco_m`` 0 there is no copy of the model; ``model_path`` is where the run goes, and may hold a run to resume.

Hardware and time: two ranks over MPI on two CPU cores that did much else took 891 s for three epochs of one step each
(128 pairs and 2,048 background videos a step, 20 frames of 1024 dimensions on average); 40 epochs of VCDB are 1,720
steps of longer videos and want GPUs, on which nothing has been run yet. Result to expect: none has been measured on
VCDB. On edited copies of real clips those three steps left the video level at mean pooling's (mAP 0.994 and 0.981
against 0.994 and 0.987 at medium and hard). benchmarks/published_command.py runs the line on your own videos and
prints its score beside mean pooling's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ...core.config import super_init
from ...core.engine import Engine
from ...core.errors import UsageError
from ..running.settings import RunSettings, require_not_negative, require_positive
from .tca import TcaRecipe

EXAMPLE = (
    "horovodrun -np 2 train/run.py --annotation_path vcdb.pickle --feature_path FEATURES --model_path OUT --neg_num 16 "
    "--epochs 40 --batch_sz 64 --learning_rate 1e-5 --moco_k 4096 --moco_m 0. --moco_t 1.0"
)
DROPOUT = 0.2
"""Published in the training script (0.1 is its model's default, and the paper is said to have 0.5)."""


def _short(name: str) -> Any:
    return tyro.conf.arg(aliases=(name,))


@dataclass(frozen=True, kw_only=True)
class TcaPublished(RunSettings):
    """Train TCA by its published command line; flags and defaults are the published ones."""

    annotation_path: Annotated[Path, _short("-ap")]
    """VCDB's training annotation (vcdb.pickle): pairs and background videos."""
    feature_path: Annotated[Path, _short("-fp")]
    """Feature store, or the published HDF5 file of frame features."""
    model_path: Annotated[Path, _short("-mp")]
    """Run folder; the trained model will be in its subfolder model/."""
    num_clusters: Annotated[int | None, _short("-nc")] = None
    """Without effect, as published: it belongs to NetVLAD."""
    output_dim: Annotated[int, _short("-od")] = 1024
    """Dimension of the embeddings; TCA has no projection, so it must be that of the features."""
    num_layers: Annotated[int, _short("-nl")] = 1
    """Transformer layers."""
    normalize_input: Annotated[bool, _short("-ni")] = False
    """Without effect, as published: it belongs to NetVLAD."""
    neg_num: Annotated[int, _short("-nn")] = 1
    """Background videos drawn for each pair."""
    epochs: Annotated[int, _short("-e")] = 5
    """Visits of every pair, and the length of the cosine."""
    batch_sz: Annotated[int, _short("-bs")] = 256
    """Pairs per step and rank."""
    learning_rate: Annotated[float, _short("-lr")] = 1e-4
    """Multiplied by the number of ranks; with --use-adasum by 1, or under NCCL by the ranks of a machine."""
    momentum: float | None = None
    """Without effect, as published: the optimizer is Adam. The key encoder's momentum is --moco-m."""
    weight_decay: Annotated[float, _short("-wd")] = 1e-4
    """Added to the gradient, times the weight; of all parameters."""
    pca_components: Annotated[int, _short("-pc")] = 1024
    """Dimension of the features; another one in --feature-path is an error."""
    padding_size: Annotated[int, _short("-ps")] = 300
    """Longer videos are cut to so many frames."""
    random_sampling: Annotated[bool, _short("-rs")] = False
    """Of longer videos take that many frames at random, with replacement, instead of a window."""
    num_readers: Annotated[int | None, _short("-nr")] = None
    """Without effect, as published."""
    num_workers: Annotated[int, _short("-nw")] = 4
    """Threads that prepare batches ahead; the result does not depend on it."""
    moco_k: int = 65536
    """Keys in the queue."""
    moco_m: float = 0.999
    """Momentum of the key encoder; 0 shares the trained weights."""
    moco_t: float = 0.07
    """Similarities are divided by it before the circle loss, which was meant for 1."""
    print_freq: Annotated[int, _short("-p")] = 10
    """Steps between lines of metrics.jsonl."""
    use_adasum: bool = False
    """Combine the ranks' gradients by Adasum; needs Horovod over MPI and a power of two ranks."""
    fp16_allreduce: bool = False
    """Gradients travel between ranks as float16."""
    validate_groups: Path | None = None
    """CSV with the columns video_id,group: held out of training, and retrieved now and then."""
    max_missing_share: float = 0.2
    """Largest share of the annotated videos whose features may be missing; above it nothing is trained."""
    recipe: Literal["tca-published"] = "tca-published"
    """Which recipe."""

    def __post_init__(self) -> None:
        super_init(TcaPublished, self)
        for name in (
            "neg_num",
            "num_layers",
            "epochs",
            "batch_sz",
            "learning_rate",
            "padding_size",
            "moco_k",
            "moco_t",
        ):
            require_positive(self, name)
        require_positive(self, "print_freq")
        require_not_negative(self, "weight_decay")
        if not 0 <= self.moco_m < 1:
            raise UsageError(f"--moco-m is {self.moco_m}; it must be at least 0 (no copy) and below 1 (never moves)")
        if self.output_dim != self.pca_components:
            raise UsageError(
                f"--output-dim {self.output_dim} with --pca-components {self.pca_components}: TCA has no projection, "
                "so give both the dimension of the features"
            )

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.model_path

    def learning_rate_factor(self, engine: Engine) -> int:
        """What the published script multiplies the learning rate by."""
        return engine.adasum_averages if self.use_adasum else engine.size

    def resolve(self, engine: Engine) -> TcaRecipe:
        """The same run in the words of recipe ``tca``.

        Raises:
            UsageError: a value is refused.
        """
        kept = {field.name: getattr(self, field.name) for field in fields(RunSettings)}
        return TcaRecipe(
            **kept,
            recipe="tca-published",
            features=self.feature_path,
            pca_components=self.pca_components,
            vcdb=self.annotation_path,
            output=self.model_path,
            validate_groups=self.validate_groups,
            max_missing_share=self.max_missing_share,
            num_layers=self.num_layers,
            dropout=DROPOUT,
            init="published",
            loss="circle-legacy",
            temperature=self.moco_t,
            queue_size=self.moco_k,
            momentum=self.moco_m,
            batch_negatives=False,
            queue_positives=False,
            negatives_per_anchor=self.neg_num,
            feature_edits="none",
            virtual_scenes=0.0,
            swap_pairs=False,
            drop_last=True,
            max_frames=self.padding_size,
            random_sampling=self.random_sampling,
            num_workers=self.num_workers,
            epochs=float(self.epochs),
            batch_size=self.batch_sz * engine.size,
            lr=self.learning_rate * self.learning_rate_factor(engine),
            schedule="cosine-epochs",
            warmup_steps=0,
            optimizer="adam",
            weight_decay=self.weight_decay,
            weight_decay_on="all",
            clip_norm=0.0,
            compression="fp16" if self.fp16_allreduce else "none",
            reduction="adasum" if self.use_adasum else "average",
            log_every=self.print_freq,
        )
