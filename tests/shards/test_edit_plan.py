"""Plans of edited copies: decided by ids and seed alone, of the promised make, under safe names."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from reelkin.core.errors import UsageError
from reelkin.shards.editing.plan import APPLIED_IN_ORDER, plan_copies, plan_copy, safe_name
from reelkin.shards.editing.strengths import FAMILIES, NUM_EDITS, RE_ENCODE, STRENGTH_TABLE, STRENGTHS, table_hash

IDS = [f"video-{number:03d}" for number in range(60)]


def test_the_table_of_strengths_is_frozen() -> None:
    # Published figures rest on the table. A new value here needs a new EDITS_VERSION and new figures everywhere.
    assert table_hash() == "d49b9f3bb6d5ffaa188e3faf9eff5faed37060267b1d116134b245991a4f27e2"


def test_every_edit_has_all_strengths_with_the_same_parameters() -> None:
    assert sorted(STRENGTH_TABLE) == sorted({name for family in FAMILIES.values() for name in family})
    assert sorted([*STRENGTH_TABLE, "re_encode"]) == sorted(APPLIED_IN_ORDER)
    for name, strengths in STRENGTH_TABLE.items():
        assert tuple(strengths) == STRENGTHS
        assert len({tuple(parameters) for parameters in strengths.values()}) == 1, name


def test_a_plan_depends_on_ids_and_seed_alone() -> None:
    shuffled = IDS[:]
    random.Random(1).shuffle(shuffled)
    first = {plan.copy_id: plan for plan in plan_copies(IDS, STRENGTHS, 2, seed=4)}
    second = {plan.copy_id: plan for plan in plan_copies(shuffled, reversed(STRENGTHS), 3, seed=4)}
    assert len(first) == 60 * 6 and all(second[copy_id] == plan for copy_id, plan in first.items())
    alone = plan_copy("video-007", "hard", 1, 4, IDS)
    assert alone == first[alone.copy_id] and alone.fingerprint() == first[alone.copy_id].fingerprint()
    other_seed = {plan.copy_id: plan for plan in plan_copies(IDS, STRENGTHS, 2, seed=5)}
    assert sum(other_seed[copy_id].edits == plan.edits for copy_id, plan in first.items()) < 10


def test_copies_of_one_source_differ() -> None:
    for strength in STRENGTHS:
        plans = [plan_copy("a", strength, number, 0, IDS) for number in range(20)]
        assert len({plan.fingerprint() for plan in plans}) == 20
        assert len({plan.edits for plan in plans}) >= 19  # two easy mirrors with the same encoding may agree


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_copy_gets_its_number_of_edits_from_different_families_and_a_closing_re_encode(strength: str) -> None:
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    counts: Counter[int] = Counter()
    used: Counter[str] = Counter()
    for source in IDS:
        plan = plan_copy(source, strength, 0, 0, IDS)
        names = [edit.name for edit in plan.edits]
        assert names[-1] == "re_encode" and names.count("re_encode") == 1
        assert names == sorted(names, key=APPLIED_IN_ORDER.index)
        families = [family_of[name] for name in names[:-1]]
        assert len(set(families)) == len(families)
        assert (plan.other_source_id != "") == ("composition" in families) and plan.other_source_id != source
        assert any(codec == plan.edits[-1]["codec"] for codec, _, _ in RE_ENCODE[strength])
        counts[len(families)] += 1
        used.update(names)
    assert set(counts) == set(NUM_EDITS[strength])
    assert len(used) >= 12  # all kinds turn up


def test_without_another_video_nothing_is_joined_or_framed() -> None:
    for number in range(50):
        plan = plan_copy("a", "hard", number, 0, ["a"])
        assert not plan.other_source_id and not {"join", "picture_in_picture"} & {edit.name for edit in plan.edits}


def test_adding_a_video_changes_few_second_videos_and_nothing_else() -> None:
    before = plan_copies(IDS, STRENGTHS, 8, 0)
    after = {plan.copy_id: plan for plan in plan_copies([*IDS, "one more"], STRENGTHS, 8, 0)}
    changed = [plan for plan in before if after[plan.copy_id] != plan]
    assert 0 < len(changed) < 0.1 * len(before)
    for plan in changed:
        assert after[plan.copy_id].edits == plan.edits and after[plan.copy_id].other_source_id == "one more"


def test_the_second_videos_are_spread_over_all() -> None:
    chosen = Counter(plan.other_source_id for plan in plan_copies(IDS, ["hard"], 20, 0) if plan.other_source_id)
    assert len(chosen) == 60 and max(chosen.values()) < 5 * sum(chosen.values()) / 60


ODD_IDS = ["a/b", "with space", "ü", "..", ".hidden", "-flag", "x" * 300, "a\nb", "", "q?*<>|"]


@pytest.mark.parametrize("source_id", ODD_IDS)
def test_odd_ids_get_safe_names_that_stay_apart(source_id: str) -> None:
    name = safe_name(source_id)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name)
    assert name != safe_name(source_id + " ") and name != safe_name(source_id.replace("/", "_") + "x")


def test_plain_ids_are_their_own_names() -> None:
    assert [safe_name(one) for one in ("clip_01", "a.b-c", "flower.mp4")] == ["clip_01", "a.b-c", "flower.mp4"]
    assert plan_copy("clip_01", "easy", 3, 0).copy_id == "clip_01__easy_3"


def test_colliding_names_are_refused() -> None:
    with pytest.raises(UsageError, match="same names"):
        plan_copies(["a/b", safe_name("a/b")], STRENGTHS, 1, 0)


def test_an_unknown_strength_is_refused() -> None:
    with pytest.raises(UsageError, match="easy, medium, hard"):
        plan_copy("a", "extreme", 0, 0)
