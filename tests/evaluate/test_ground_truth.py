"""Ground truth files, coverage against a store, and the protocol for copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.evaluate.copies import copy_tasks
from reelkin.evaluate.ground_truth import make_task, read_ground_truth


def written(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_directed_and_repeats_are_named(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, "query,video\na,b\na,c\na,b\na,a\n"))
    assert truth.relevant == {"a": {"b", "c"}}
    assert truth.duplicates == ["a,b", "a,a"]


def test_members_of_a_group_are_relevant_to_one_another_but_not_to_themselves(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, "video_id,group,kind\na,g,x\nb,g,y\nc,h,x\nd,,x\n"))
    assert truth.relevant == {"a": {"b"}, "b": {"a"}, "c": set()}
    assert truth.columns["kind"] == {"a": "x", "b": "y", "c": "x", "d": "x"}


def test_file_names_lose_their_extension_unless_the_store_keeps_it(tmp_path: Path) -> None:
    path = written(tmp_path, "file,group\nflower.mp4,f\nflower.webm,f\nsub/rocket.v2.mkv,r\n")
    truth = read_ground_truth(path, known_ids=["flower.mp4", "flower.webm", "sub/rocket.v2"])
    assert truth.ids == {"flower.mp4", "flower.webm", "sub/rocket.v2"}


def test_ids_with_commas_quotes_and_other_scripts_survive(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, '\ufeffquery,video\n"a,b","say ""hi"""\nвидео,映像 1\n'))
    assert truth.relevant == {"a,b": {'say "hi"'}, "видео": {"映像 1"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video_id,group\na,g\na,h\n", "in the groups 'g' and 'h'"),
        ("query,video\na\n", "line 2: too few"),
        ("query,video\na,b,c\n", "line 2: too many"),
        ("query,video\n", "no row"),
    ],
)
def test_unusable_files_are_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ReelkinError, match=message):
        read_ground_truth(written(tmp_path, text))


def test_unknown_heading_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="left,right"):
        read_ground_truth(written(tmp_path, "left,right\na,b\n"))


def test_missing_videos_are_counted_and_left_out_of_the_positives(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, "query,video\na,b\na,gone\nlost,b\nc,gone\n"))
    task = make_task(truth, ["c", "a", "b", "other"])
    assert list(task.queries) == ["c", "a"]
    assert task.relevant == {"c": set(), "a": {"b"}}
    assert list(task.database) == ["c", "a", "b", "other"]
    coverage = task.coverage
    assert (coverage.ids_named, coverage.ids_found, coverage.missing) == (5, 3, ["gone", "lost"])
    assert (coverage.queries_named, coverage.queries_evaluated, coverage.queries_without_positives) == (3, 2, ["c"])
    assert (coverage.positives_named, coverage.positives_found) == (3, 1)


def test_missing_positives_can_be_made_to_count(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, "query,video\na,b\na,gone\nc,gone\n"))
    task = make_task(truth, ["a", "b", "c"], count_missing=True)
    assert task.missing_positives == {"a": 1, "c": 1}
    assert task.coverage.queries_without_positives == []


def test_no_query_in_the_store_and_unknown_query_ids_are_refused(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, "query,video\na,b\n"))
    with pytest.raises(ReelkinError, match=r"none of the 1 queries.*'a'.*'A'"):
        make_task(truth, ["A", "B"])
    with pytest.raises(ReelkinError, match="'zz' asked for"):
        make_task(truth, ["a", "b"], queries=["zz"])


def test_the_hash_depends_on_the_lists_and_not_on_their_order(tmp_path: Path) -> None:
    truth = read_ground_truth(written(tmp_path, "query,video\na,b\nb,a\n"))
    first, second = make_task(truth, ["a", "b", "c"]), make_task(truth, ["c", "b", "a"])
    assert first.ids_sha256 == second.ids_sha256 != make_task(truth, ["a", "b"]).ids_sha256


def edit(copy: str, source: str, strength: str, other: str = "") -> dict[str, str]:
    return {"copy_id": copy, "source_id": source, "strength": strength, "other_source_id": other}


EDITS = [
    edit("a_e", "a", "easy"),
    edit("a_h1", "a", "hard"),
    edit("a_h1", "a", "hard"),  # a second segment
    edit("a_h2", "a", "hard"),
    edit("b_h", "b", "hard", other="a"),  # b with a in its corner
    edit("t_h", "t", "hard"),
    edit("lost_h", "a", "hard"),
]
STORE = ["a", "a2", "b", "t", "noise", "a_e", "a_h1", "a_h2", "b_h", "t_h"]


def test_copies_of_other_strengths_are_not_in_the_database() -> None:
    easy, hard = copy_tasks(EDITS, STORE, strengths=("easy", "hard"))
    assert list(easy.database) == ["a", "a2", "b", "t", "noise", "a_e"]
    assert list(hard.database) == ["a", "a2", "b", "t", "noise", "a_h1", "a_h2", "b_h", "t_h"]


def test_only_held_out_copies_are_queries_and_training_videos_stay_as_distractors() -> None:
    (hard,) = copy_tasks(EDITS, STORE, strengths=("hard",), test_groups={"a", "b"})
    assert list(hard.queries) == ["a_h1", "a_h2", "b_h"]
    assert {"t", "t_h", "noise"} <= set(hard.database)
    assert hard.coverage.missing == ["lost_h"]
    assert (hard.coverage.queries_named, hard.coverage.queries_evaluated) == (4, 3)


def test_what_shares_only_a_guest_is_neither_right_nor_wrong() -> None:
    (hard,) = copy_tasks(EDITS, STORE, groups={"a": "scene", "a2": "scene"}, strengths=("hard",))
    assert hard.relevant["a_h1"] == {"a", "a2", "a_h2"}
    assert hard.ignored["a_h1"] == {"b_h"}  # b with a in its corner
    assert hard.relevant["b_h"] == {"b"}
    assert hard.ignored["b_h"] == {"a", "a2", "a_h1", "a_h2"}
    assert hard.relevant["t_h"] == {"t"} and hard.ignored["t_h"] == frozenset()
    assert "b" not in hard.relevant["a_h1"] | hard.ignored["a_h1"]  # b_h showing both does not merge the two
    assert hard.groups["a_h1"] == "scene"


def test_a_strength_without_queries_is_refused() -> None:
    with pytest.raises(ReelkinError, match=r"'medium'.*easy, hard"):
        copy_tasks(EDITS, STORE, strengths=("medium",))
    with pytest.raises(ReelkinError, match="'easy' and 'hard'"):
        copy_tasks([edit("x", "a", "easy"), edit("x", "a", "hard")], STORE, strengths=("easy",))
