"""From a similarity file to the figures: what plain loops over json.load find, whatever order the file lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.protocols import PROTOCOLS
from reelkin.evaluate.published.scoring import evaluate_scores
from reelkin.evaluate.published.similarity_file import read_similarities

from . import cases
from .brute import Brute
from .test_protocols import DATASETS, flat


def shuffled(annotation: Annotation, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """A random case's scores as a file may hold them: each query lists its videos in an order of its own."""
    content = {}
    for query, row in cases.scores(annotation, rng).dictionary().items():
        ids = list(row)
        if ids:
            content[query] = {ids[place]: row[ids[place]] for place in rng.permutation(len(ids))}
    return content


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_ties_of_a_file_stand_in_the_order_in_which_each_query_lists_its_videos(
    dataset: str, protocol: str, tmp_path: Path
) -> None:
    compared = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 7])
        annotation = cases.annotation(dataset, rng)
        path = tmp_path / "similarities.json"
        path.write_text(json.dumps(shuffled(annotation, rng)))
        content = json.loads(path.read_text())
        brute = Brute(annotation, content, list(dict.fromkeys(video for row in content.values() for video in row)))
        if not brute.db or not brute.sims:
            continue
        found = flat(evaluate_scores(annotation, read_similarities(path), protocol=protocol))
        there = {name: value for name, value in brute.figures(protocol).items() if name in found}
        assert found == pytest.approx(there, abs=1e-9), seed
        compared += 1
    assert compared > 30


def test_scores_that_differ_in_their_last_digits_do_not_tie(tmp_path: Path) -> None:
    path = tmp_path / "similarities.json"
    path.write_text('{"q": {"wrong": 0.12345678901, "right": 0.12345678902}, "p": {"wrong": 0.5, "right": 0.25}}')
    annotation = Annotation("PAIRS", "", ("q", "p"), None, {"q": {"positive": ("right",)}, "p": {}})
    for protocol in PROTOCOLS:
        (row,) = (
            r for r in evaluate_scores(annotation, read_similarities(path), protocol=protocol).rows if r.ap is not None
        )
        assert (row.query, row.ap, row.best_wrong_place) == ("q", 1.0, 2)
