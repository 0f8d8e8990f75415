"""The report page: whole without a network, hostile ids harmless, examples marked in words."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelkin.evaluate.ground_truth import from_groups, make_task
from reelkin.evaluate.methods import chance, from_embeddings
from reelkin.evaluate.rankings import Match, QueryResult, evaluate_task
from reelkin.evaluate.reporting.page import picture, spread
from reelkin.evaluate.reporting.tasks import choose_examples, render, write_report
from reelkin.evaluate.results import Results
from reelkin.search.text import shown

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>{{ 7 * 7 }}\u202egpj'


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def results(num_tasks: int = 1, hostile: str = HOSTILE) -> Results:
    ids = [hostile, *(f"v{i}" for i in range(11))]
    rng = np.random.default_rng(0)
    embeddings = np.eye(4).repeat(3, axis=0) + 0.7 * rng.normal(size=(12, 4))
    methods = [
        from_embeddings("mean-pool", "", ids, embeddings + rng.normal(size=(12, 4)), trivial=True),
        chance(),
        from_embeddings("tca-video", "the model", ids, embeddings),
    ]
    truth = from_groups((video_id, str(i // 3)) for i, video_id in enumerate(ids))
    tasks = [make_task(truth, ids, name=f"task {n}" if num_tasks > 1 else "") for n in range(num_tasks)]
    return Results(
        "Report <b>title</b>", [evaluate_task(task, methods) for task in tasks], {"seed": 0}, {"x": {"y": "z"}}
    )


def strips(video_id: str) -> list[np.ndarray]:
    return [np.full((36, 64, 3), 40 * i, dtype=np.uint8) for i in range(6)]


@pytest.mark.parametrize("num_tasks", [1, 4])
@pytest.mark.parametrize("pictures", [True, False])
def test_the_page_refers_to_nothing_outside_itself(num_tasks: int, pictures: bool) -> None:
    text = render(results(num_tasks), strips=strips if pictures else None)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert value and value.startswith(("data:image/jpeg;base64,", "#"))
    styles = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in styles and "@import" not in styles
    assert "default-src 'none'" in text
    anchors = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert anchors <= {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}


def test_hostile_ids_are_text_and_hidden_characters_are_written_out() -> None:
    text = render(results(), strips=strips)
    assert "<script>" not in text and "\u202e" not in text
    page = Page(text)
    assert (
        '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>{{ 7 * 7 }}\\u202egpj' in page.text
    )
    assert "Report <b>title</b>" in page.text


def test_control_and_unpaired_characters_are_escaped_and_scripts_are_kept() -> None:
    assert shown("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"
    assert shown("映像 – видео é") == "映像 – видео é"


def test_an_id_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    write_report(results(hostile="\udcff.mp4"), tmp_path / "report.html")
    assert "\\udcff.mp4" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_right_and_wrong_are_told_in_words_and_images_have_alternatives() -> None:
    page = Page(render(results(), strips=strips))
    assert "✓ right" in page.text and "✗ wrong" in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images and all(attributes.get("alt") for attributes in images)
    assert any(tag == "svg" and attributes.get("role") == "img" for tag, attributes in page.tags)


def test_the_figures_on_the_page_are_the_results() -> None:
    own = results()
    text = Page(render(own)).text
    for method in own.tasks[0].methods:
        assert method.mean is not None and f"{method.mean:.3f}" in text


def test_intervals_from_few_groups_are_called_rough() -> None:
    assert "drawn from 4 independent groups" in render(results())


def test_a_video_without_pictures_is_said_to_have_none() -> None:
    assert "no picture can be shown" in render(results(), strips=lambda video_id: [])


def test_the_same_results_give_the_same_page() -> None:
    first, second = (render(results(), strips=strips) for _ in range(2))
    assert first == second


def test_examples_are_the_worst_the_middle_and_the_best_each_once() -> None:
    own = results()
    chosen = choose_examples(own.tasks, "tca-video", 8)
    aps = [example.query.ap for example in chosen]
    every = sorted(own.tasks[0].by_name("tca-video").aps.values())
    assert aps[0] == every[0] and aps[-1] == every[-1] and aps == sorted(aps, key=float)
    assert len({example.query.query for example in chosen}) == 8
    assert len(choose_examples(own.tasks, "tca-video", 100)) == 12
    assert choose_examples(own.tasks, "tca-video", 0) == []


def test_nothing_after_the_last_relevant_video_is_called_wrong() -> None:
    from reelkin.evaluate.reporting.tasks import _until_all_found

    best = [Match("a", 0.9, True), Match("b", 0.8, True), Match("c", 0.7, False)]
    assert len(_until_all_found(QueryResult("q", 1.0, 2, best))) == 2
    assert len(_until_all_found(QueryResult("q", 0.7, 3, best))) == 3


def test_pictures_are_small_jpegs_of_the_frame() -> None:
    frame = np.zeros((400, 200, 3), dtype=np.uint8)
    frame[..., 0] = 200
    image = Image.open(io.BytesIO(base64.b64decode(picture(frame).split(",")[1])))
    assert image.format == "JPEG" and image.size == (80, 160)
    assert np.abs(np.asarray(image).mean(axis=(0, 1)) - [200, 0, 0]).max() < 6


@pytest.mark.parametrize("count", [1, 3, 4, 5, 61])
def test_frames_are_spread_and_never_repeated(count: int) -> None:
    frames = [np.full((1, 1, 3), i, dtype=np.uint8) for i in range(count)]
    numbers = [int(frame[0, 0, 0]) for frame in spread(frames)]
    assert len(numbers) == min(4, count) == len(set(numbers)) and numbers == sorted(numbers)


@pytest.mark.parametrize("num_tasks", [1, 4])
def test_precision_and_recall_are_drawn_for_every_task_and_method(num_tasks: int) -> None:
    page = Page(render(results(num_tasks)))
    lines = [str(attributes["class"]) for tag, attributes in page.tags if tag == "polyline"]
    assert len(lines) == 3 * num_tasks + 3 and len(set(lines)) == 3  # and the key
    assert "Precision and recall" in page.text
