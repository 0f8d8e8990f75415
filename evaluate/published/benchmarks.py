"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ...core.errors import UsageError
from .annotation import Annotation
from .cc_web_video import read_cc_web_video
from .evve import read_evve
from .fivr import read_fivr
from .pairs import read_pairs
from .svd import read_svd
from .vcdb import read_vcdb

DATASETS = ("FIVR-5K", "FIVR-200K", "VCDB", "VCDB-CORE", "CC_WEB_VIDEO", "EVVE", "SVD", "PAIRS")
"""Names as they are given on the command line; case does not matter."""


def read_annotation(
    dataset: str,
    annotations: str | Path = "",
    *,
    positive_labels: Collection[str] = (),
    judged_only: bool = False,
) -> Annotation:
    """A benchmark's ground truth.

    Args:
        dataset: one of `DATASETS`.
        annotations: a file instead of the shipped one; of FIVR also "old" (the default) or "new".
        positive_labels, judged_only: of PAIRS, see `pairs.read_pairs`.

    Raises:
        UsageError: the name is unknown, PAIRS has no file, options of PAIRS are given with another, or the file is not
            built like the published one.
        ReelkinError: the file cannot be read, or names no query.
    """
    name = dataset.upper()
    if name not in DATASETS:
        raise UsageError(f"--dataset {dataset} is none of {', '.join(DATASETS)}")
    if name == "PAIRS":
        if not annotations:
            raise UsageError("--dataset PAIRS needs --annotations FILE, a CSV with the columns query, video and label")
        return read_pairs(annotations, positive_labels=positive_labels, judged_only=judged_only)
    if positive_labels or judged_only:
        raise UsageError(f"labels that mean positive and judged pairs alone can be chosen for PAIRS, not for {name}")
    if name.startswith("FIVR"):
        return read_fivr(name.removeprefix("FIVR-").lower(), annotations or "old")
    if str(annotations) in ("old", "new") and not Path(annotations).exists():
        raise UsageError(f"--annotations {annotations}: only FIVR has an old and a new annotation; leave it out")
    if name.startswith("VCDB"):
        return read_vcdb(distractors=name == "VCDB", annotations=annotations)
    if name == "CC_WEB_VIDEO":
        return read_cc_web_video(annotations)
    return read_evve(annotations) if name == "EVVE" else read_svd(annotations)
