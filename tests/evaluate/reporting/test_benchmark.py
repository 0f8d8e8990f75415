"""The page and the plots of a published benchmark: offline, hostile ids harmless, figures those of the results."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.baselines import Chance
from reelkin.evaluate.published.embedding_scores import MatrixScores
from reelkin.evaluate.published.publishing import Evaluation, System
from reelkin.evaluate.published.scoring import evaluate_scores
from reelkin.evaluate.reporting import benchmark, plots
from reelkin.evaluate.reporting.benchmark import curve_panels, figure_panels, render, worst
from reelkin.evaluate.reporting.charts import CurvePanel, Line, curves
from reelkin.evaluate.reporting.matrices import LONGEST_SIDE, matrix_picture, pooled
from tests.evaluate.reporting.test_tasks import HOSTILE, Page, strips

QUERIES = (HOSTILE, "q1", "q2", "q3")
DATABASE = tuple(f"v{n}" for n in range(30))


def evaluation(
    dataset: str = "EVVE", *, perfect: bool = False, resamples: int = 100, protocol: str = "corrected"
) -> Evaluation:
    """Four queries with five positives each; half of one query's are not in the scores."""
    positives = {query: DATABASE[5 * n : 5 * n + 5] for n, query in enumerate(QUERIES)}
    label = {"EVVE": "event", "FIVR-5K": "ND"}[dataset]
    groups = {query: f"event {HOSTILE if n < 2 else n}" for n, query in enumerate(QUERIES)} if dataset == "EVVE" else {}
    annotation = Annotation(
        dataset=dataset,
        version="old" if dataset == "FIVR-5K" else "",
        queries=QUERIES,
        database=DATABASE,
        labels={query: {label: positives[query]} for query in QUERIES},
        groups=groups,
    )
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 28)).astype(np.float32)
    for n in range(4):
        matrix[n, 5 * n : 5 * n + 5] += 10 if perfect else 1
    scores = MatrixScores(QUERIES, DATABASE[:28], matrix, {"metric": "cosine", "file": HOSTILE})
    own, trivial = (
        evaluate_scores(annotation, each, num_resamples=resamples, protocol=protocol)
        for each in (scores, Chance(scores, tied=True))
    )
    systems = System(f"model {HOSTILE}", "a model", own), System("mean-pool", "no model", trivial)
    return Evaluation(systems[0], systems[1:], groups, "ab" * 32, {"dataset": dataset})


def matrix(query: str, video: str) -> np.ndarray:
    return np.eye(300, 7, dtype=np.float32)


@pytest.mark.parametrize("dataset", ["EVVE", "FIVR-5K"])
@pytest.mark.parametrize("full", [True, False])
def test_the_page_refers_to_nothing_outside_itself(dataset: str, full: bool) -> None:
    text = render(evaluation(dataset), strips=strips if full else None, matrices=matrix if full else None)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert value and value.startswith(("data:image/jpeg;base64,", "data:image/png;base64,", "#"))
    anchors = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert anchors <= {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert "default-src 'none'" in text and ("data:image/png" in text) == full
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert bool(images) == full and all(attributes.get("alt") for attributes in images)


def test_hostile_ids_names_and_events_are_text() -> None:
    text = render(evaluation(), strips=strips, matrices=matrix, title=HOSTILE)
    assert "<script>" not in text and "\u202e" not in text
    assert Page(text).text.count("<script>alert(1)</script>") > 5


def test_the_figures_their_intervals_and_the_coverage_are_on_the_page() -> None:
    own = evaluation()
    text = " ".join(Page(render(own)).text.split())
    outcome = own.system.outcome
    assert text.count("4 of 4 queries, 28 of 30 videos") >= 5 and "Partial:" in text
    for name in ("mAP", "uAP"):
        low, high = outcome.intervals[name]  # type: ignore[misc]
        assert f"{outcome.figures[name]:.3f}" in text and f"{low:.3f} to {high:.3f}" in text
    for event, value in outcome.figures["events"].items():  # type: ignore[union-attr]
        assert event.partition(HOSTILE)[0] in text and f"{value:.3f}" in text
    assert "on mean-pool" in text and outcome.description in text
    plain = " ".join(Page(render(evaluation(resamples=0, protocol="legacy"))).text.split())
    assert "--bootstrap 1000 gives them" in plain and "on mean-pool" not in plain and "Legacy:" in plain


def test_failures_are_the_queries_ranked_worst_and_none_is_shown_where_all_is_right() -> None:
    outcome = evaluation().system.outcome
    rows = worst(outcome, "mAP", 2)
    aps = sorted(row.ap for row in outcome.rows if row.ap is not None)
    assert [row.ap for row in rows] == aps[:2] and len(worst(outcome, "mAP", 10)) == 4
    text = render(evaluation(), num_examples=2)
    assert text.count("<article") == 2 and "✗ Best wrong answer" in text and "✓ Best missed positive" in text
    assert worst(evaluation(perfect=True).system.outcome, "mAP", 10) == []
    assert "<article" not in render(evaluation(perfect=True))


def test_a_query_whose_positives_have_no_scores_is_a_failure() -> None:
    labels = {"q": {"ND": ("v0", "v1", "v2", "v3")}, "p": {"ND": ("v1",)}}
    annotation = Annotation("FIVR-5K", "old", ("q", "p"), DATABASE, labels)
    matrix = np.tile(np.arange(30, 0, -1, dtype=np.float32), (2, 1))
    matrix[0, 1:4] = np.nan
    matrix[1, 1] = 99
    outcome = evaluate_scores(annotation, MatrixScores(("q", "p"), DATABASE, matrix))
    (row,) = worst(outcome, "DSVR", 9)
    assert (row.query, row.ap, row.best_missed) == ("q", 0.25, None)


def test_strips_and_matrices_are_asked_for_the_videos_shown_only() -> None:
    asked: set[str] = set()
    rows = worst(evaluation().system.outcome, "mAP", 1)
    render(evaluation(), num_examples=1, strips=lambda video_id: asked.add(video_id) or [])  # type: ignore[func-returns-value]
    assert asked == {rows[0].query, rows[0].best_wrong, rows[0].best_missed}


def test_both_matrices_of_a_failure_have_the_same_colours() -> None:
    made = iter([np.array([[0.0, 0.25]]), np.array([[0.5, 1.0]])])
    text = Page(render(evaluation(), num_examples=1, matrices=lambda query, video: next(made))).text
    assert text.count("0.00 (dark) to 1.00 (bright)") == 2


def test_the_same_results_give_the_same_page_and_the_same_plots(tmp_path: Path) -> None:
    assert render(evaluation(), matrices=matrix) == render(evaluation(), matrices=matrix)
    made = []
    for name in "ab":
        paths = [tmp_path / f"{name}.{kind}" for kind in plots.FORMATS]
        plots.write_curves(curve_panels(evaluation()), paths, "x")
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1]


def test_plots_are_svg_without_scripts_and_png_large_enough_for_print(tmp_path: Path) -> None:
    for name, write, panels in (
        ("curves", plots.write_curves, curve_panels(evaluation("FIVR-5K"))),
        ("figures", plots.write_dots, figure_panels(evaluation("FIVR-5K"))),
    ):
        assert len(panels) == 6
        paths = [tmp_path / f"{name}.{kind}" for kind in plots.FORMATS]
        write(panels, paths, f"$\\frac{{{HOSTILE}$")  # type: ignore[operator]
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(paths[0]).iter()}
        assert "path" in tags and not tags & {"script", "image", "foreignObject", "a"}
        assert Image.open(paths[1]).width > 1500


def test_matrices_of_long_videos_keep_their_diagonal() -> None:
    assert pooled(np.eye(1000, 100)).shape == (LONGEST_SIDE, 100)
    small = pooled(np.eye(1000))
    assert small.shape == (LONGEST_SIDE, LONGEST_SIDE)
    assert (small.max(axis=0) == 1).all() and (small.max(axis=1) == 1).all() and small[0, -1] == 0
    shown = matrix_picture(np.array([[0.0, 1.0]]), 0.0, 1.0)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.address.split(",")[1]))))
    assert pixels.shape == (24, 48, 3) and pixels[0, 47].sum() > pixels[0, 0].sum()
    assert (shown.rows, shown.columns) == (1, 2)


def test_matrices_of_short_videos_fill_their_column() -> None:
    for rows, columns, width, height in ((6, 53, 265, 30), (74, 9, 27, 222), (13, 17, 272, 208), (300, 2, 2, 240)):
        drawn = matrix_picture(np.eye(rows, columns), 0.0, 1.0)
        assert Image.open(io.BytesIO(base64.b64decode(drawn.address.split(",")[1]))).size == (width, height)


def test_print_opens_what_the_screen_folds_away() -> None:
    text = render(evaluation())
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    printed = style[style.rindex("@media print") :]
    assert "<details" in text and "details::details-content { content-visibility: visible; }" in printed
    assert ".wide { overflow: visible; }" in printed  # what would scroll would be cut


def test_a_cut_table_names_the_file_that_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "MAX_QUERY_ROWS", 3)
    text = " ".join(Page(render(evaluation(), queries_name="ours.queries.csv")).text.split())
    assert "The first 3 of 4; ours.queries.csv holds all." in text


def test_curves_run_from_corner_to_corner_of_their_panel() -> None:
    drawn = curves([CurvePanel("mAP", [Line("a", (0.0, 0.5, 1.0), (1.0, 1.0, 0.0)), Line("b", (1.0,), (0.2,), 1)])])
    panel = drawn["panels"][0]
    points = [tuple(map(float, point.split(","))) for point in panel["lines"][0]["points"].split()]
    x, y, width, height = (panel[key] for key in ("x", "y", "width", "height"))
    assert points == [
        (pytest.approx(x, abs=0.1), pytest.approx(y, abs=0.1)),
        (pytest.approx(x + width / 2, abs=0.1), pytest.approx(y, abs=0.1)),
        (pytest.approx(x + width, abs=0.1), pytest.approx(y + height, abs=0.1)),
    ]
    assert len(panel["lines"][1]["points"].split()) == 2  # a single point is made visible
