"""What train_quality.py compares: a table of flags of ``train/run.py --recipe tca``, one row a variant.

Flags of `EVERY` come first, then those of `TCA` unless the variant names another aggregator, then the variant's own,
which win.
"""

from __future__ import annotations

from dataclasses import dataclass

EVERY = "--batch-size 64 --max-frames 16 --momentum 0.9 --lr 5e-4"
TCA = "--feedforward 256"
PUBLISHED = (
    "--init published --dropout 0.2 --loss circle-legacy --momentum 0 --no-batch-negatives --no-queue-positives "
    "--negatives-per-anchor 16 --optimizer adam --weight-decay 1e-4 --warmup-steps 0 --clip-norm 0 --virtual-scenes 0 "
    "--feature-edits none --no-swap-pairs --weight-decay-on all"
)


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        what: what is varied; variants of one kind stand together.
        name: in the table.
        flags: of the recipe, as typed.
        trained: False measures the weights that training would start from.
        sources: train on so many of the sources; 0: all.
    """

    what: str
    name: str
    flags: str = ""
    trained: bool = True
    sources: int = 0

    def words(self, steps: int) -> list[str]:
        """The flags, one word each."""
        own = "" if "--aggregator" in self.flags else TCA
        return f"--steps {steps} {EVERY} {own} {self.flags}".split()


AGGREGATORS = {
    "netvlad": "--aggregator netvlad --num-clusters 32 --output-dim 128",
    "nextvlad": "--aggregator nextvlad --num-clusters 32 --output-dim 128",
    "lstm": "--aggregator lstm --output-dim 128",
    "gru": "--aggregator gru --output-dim 128",
}
"""Sized for features of 128 dimensions: with the published sizes (1024) they would have up to 30 million weights."""
VARIANTS = (
    Variant("start", "untrained", trained=False),
    Variant("start", "random weights", "--init published", trained=False),
    *(Variant("start", f"{name}, random weights", flags, trained=False) for name, flags in AGGREGATORS.items()),
    Variant("tca", "tca"),
    Variant("loss", "circle", "--loss circle"),
    Variant("loss", "circle-legacy", "--loss circle-legacy"),
    Variant("loss", "triplet", "--loss triplet"),
    Variant("loss", "triplet, semi-hard", "--loss triplet --mining semi-hard"),
    Variant("loss", "supcon", "--loss supcon"),
    Variant("mining", "topk", "--mining topk"),
    Variant("mining", "semi-hard", "--mining semi-hard"),
    Variant("mining", "distance-weighted", "--mining distance-weighted"),
    Variant("mining", "topk, share 0 to 1", "--mining topk --mined-share-start 0 --mined-share-end 1"),
    Variant("mining", "random, as many", "--mining topk --mined-share-start 0"),
    Variant("model", "random start", "--init published"),
    Variant("model", "positions", "--positions sinusoidal"),
    Variant("model", "final norm", "--final-norm"),
    Variant("model", "2 layers", "--num-layers 2"),
    *(Variant("aggregator", name, flags) for name, flags in AGGREGATORS.items()),
    Variant("key momentum", "0", "--momentum 0"),
    Variant("key momentum", "0.99", "--momentum 0.99"),
    Variant("data", "no virtual scenes", "--virtual-scenes 0"),
    Variant("data", "no feature edits", "--feature-edits none"),
    Variant("negatives", "batch only", "--queue-size 0"),
    Variant("negatives", "queue only", "--no-batch-negatives"),
    Variant("published", "published", f"{PUBLISHED} --lr 1e-5"),
    Variant("published", "published, --lr 5e-4", PUBLISHED),
    *(Variant("sources", str(count), sources=count) for count in (6, 12, 24)),
    Variant("steps", "600", "--steps 600"),
)
