"""Which edits a copy gets: decided from ids and a seed alone, before any video is opened.

The plan of a copy does not depend on the order of the sources, on the number of workers or on other copies. A source
that is added or removed changes only the plans of those copies that show it as their second video.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...core.errors import UsageError
from ...core.seeds import generator, seed_of
from .strengths import EDITS_VERSION, FAMILIES, NUM_EDITS, RE_ENCODE, STRENGTH_TABLE, STRENGTHS

APPLIED_IN_ORDER = (
    "trim",
    "speed",
    "frame_rate",
    "mirror",
    "rotate",
    "crop",
    "brightness_contrast",
    "grey",
    "blur",
    "logo",
    "text",
    "letterbox",
    "picture_in_picture",
    "resize",
    "noise",
    "join",
    "re_encode",
)
"""Edits are applied in this order, as an editor would: first the material, then the picture, then what lies over it."""

_LONGEST_SAFE_NAME = 100


@dataclass(frozen=True)
class Edit:
    """One edit with all its parameters decided (see `edit_strengths` for their meaning)."""

    name: str
    parameters: tuple[tuple[str, Any], ...]

    def __getitem__(self, parameter: str) -> Any:
        return dict(self.parameters)[parameter]


@dataclass(frozen=True)
class EditPlan:
    """How one copy is made.

    Attributes:
        source_id: the video that is copied.
        strength: "easy", "medium" or "hard".
        number: counts the copies of one source and strength from 0.
        seed: of the whole set of copies.
        edits: in the order in which they are applied; the last is "re_encode".
        other_source_id: the second video of a join or a picture in picture, else "".
    """

    source_id: str
    strength: str
    number: int
    seed: int
    edits: tuple[Edit, ...]
    other_source_id: str = ""

    @property
    def copy_id(self) -> str:
        """The copy's id: its file name without the extension."""
        return f"{safe_name(self.source_id)}__{self.strength}_{self.number}"

    @property
    def names(self) -> str:
        """The edits' names joined by "+", in the order in which they are applied."""
        return "+".join(edit.name for edit in self.edits)

    def get(self, name: str) -> Edit | None:
        """The edit of that name, or None."""
        return next((edit for edit in self.edits if edit.name == name), None)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when anything about the plan does."""
        content = [EDITS_VERSION, self.source_id, self.strength, self.number, self.seed, self.other_source_id]
        content += [[edit.name, edit.parameters] for edit in self.edits]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:16]


class Others:
    """Videos to choose a second video from.

    Every id stands at a few places of a ring, and a copy takes the id that follows its own place: one that is added or
    taken away changes few choices, and an order does not exist.
    """

    _PLACES = 16

    def __init__(self, ids: Iterable[str]) -> None:
        self._ring = sorted({(seed_of("other", place, i), i) for i in ids for place in range(self._PLACES)})

    def choose(self, copy_key: tuple[str, str, int, int]) -> str:
        """The other video for a copy (source id, strength, number, seed), never its source; "" when there is none."""
        start = bisect(self._ring, (seed_of("copy", *copy_key), ""))
        for place in range(len(self._ring)):
            candidate = self._ring[(start + place) % len(self._ring)][1]
            if candidate != copy_key[0]:
                return candidate
        return ""


def plan_copy(source_id: str, strength: str, number: int, seed: int, others: Others | Iterable[str] = ()) -> EditPlan:
    """Decide the edits of one copy.

    Args:
        source_id: id of the video to copy.
        strength: one of `STRENGTHS`.
        number: the copy's number, from 0.
        seed: of the whole set.
        others: ids of videos that may be joined on or shown around it, without order; ``source_id`` itself is passed
            over. Without any, the copy gets no join and no picture in picture. For many copies give one `Others`.

    Returns:
        The plan. The same arguments give the same plan.

    Raises:
        UsageError: the strength is unknown.
    """
    if strength not in STRENGTHS:
        raise UsageError(f"strength is {strength!r}; choose from {', '.join(STRENGTHS)}")
    key = (source_id, strength, number, seed)
    rng = generator("edits", EDITS_VERSION, *key)
    counts = NUM_EDITS[strength]
    count = counts[int(rng.integers(len(counts)))]
    other = (others if isinstance(others, Others) else Others(others)).choose(key)
    families = [family for family in FAMILIES if other or family != "composition"]
    chosen = [families[int(place)] for place in rng.permutation(len(families))[:count]]
    edits = []
    for family in chosen:
        name = FAMILIES[family][int(rng.integers(len(FAMILIES[family])))]
        drawn = {parameter: draw.draw(rng) for parameter, draw in STRENGTH_TABLE[name][strength].items()}
        if name in ("logo", "text", "noise"):
            drawn["seed"] = int(rng.integers(2**31))
        edits.append(Edit(name, tuple(drawn.items())))
    codec, best, worst = RE_ENCODE[strength][int(rng.integers(len(RE_ENCODE[strength])))]
    edits.append(Edit("re_encode", (("codec", codec), ("quality", int(rng.integers(best, worst + 1))))))
    edits.sort(key=lambda edit: APPLIED_IN_ORDER.index(edit.name))
    return EditPlan(source_id, strength, number, seed, tuple(edits), other if "composition" in chosen else "")


def plan_copies(source_ids: Iterable[str], strengths: Iterable[str], per_strength: int, seed: int) -> list[EditPlan]:
    """Plans for a set: ``per_strength`` copies of every source at every strength, each source being the others' other.

    Raises:
        UsageError: two sources would give copies of the same name.
    """
    ids, strengths = sorted(set(source_ids)), tuple(strengths)
    names: dict[str, str] = {}
    for source_id in ids:
        twin = names.setdefault(safe_name(source_id), source_id)
        if twin != source_id:
            raise UsageError(f"the copies of {source_id!r} and {twin!r} would have the same names; rename one of them")
    others = Others(ids)
    return [
        plan_copy(source_id, strength, number, seed, others)
        for source_id in ids
        for strength in strengths
        for number in range(per_strength)
    ]


def safe_name(source_id: str) -> str:
    """The id as a file name: itself when it consists of letters, digits, ``.``, ``_`` and ``-`` only; otherwise with
    every other character replaced, and eight digits of a hash behind it, so that different ids keep different names.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", source_id)[:_LONGEST_SAFE_NAME]
    if plain and plain == source_id and not plain.startswith((".", "-")):
        return plain
    digest = hashlib.sha256(source_id.encode("utf-8", errors="surrogateescape")).hexdigest()[:8]
    return f"{plain.lstrip('.-') or 'video'}-{digest}"
