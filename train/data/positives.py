"""Which stored videos are anchors, what may be their positives, and which group each video belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ReelkinError
from ...core.ids import connected_components, some_of
from .findings import Finding, Findings
from .labels import Labels

NO_GROUP = -1


@dataclass(frozen=True)
class Positives:
    """Labels brought together with the videos that are there.

    A training item is one annotated pair, or a video of a group (its positive is drawn from the others), or, without
    labels, a video alone (its positive is another edit of itself).

    Attributes:
        video_ids: the videos that training may touch; V of them. Elsewhere a video is its position in this list.
        groups: int64 [V, G], first the video's connected component of everything known to show the same thing, then the
            components of which it shows a part (joined copies), filled up with -1.
        anchors: int64 [I], the first video of each item.
        partners: int64 [I, 2], for each item the range of ``members`` from which its positive is drawn.
        members: int64 [M], videos; see ``partners``. The anchor itself is passed over where the range holds others.
        negatives: int64 [B], videos that may be drawn as additional negatives.
        undirected: an item's anchor and positive may change places (pairs).
        summary: what was found, for people.
        findings: what was odd about labels and features, for people.
    """

    video_ids: list[str]
    groups: NDArray[np.int64]
    anchors: NDArray[np.int64]
    partners: NDArray[np.int64]
    members: NDArray[np.int64]
    negatives: NDArray[np.int64]
    undirected: bool
    summary: str
    findings: tuple[Finding, ...] = ()

    @property
    def num_items(self) -> int:
        """Training items; an epoch visits each once."""
        return len(self.anchors)

    def __repr__(self) -> str:
        return f"Positives({len(self.video_ids)} videos, {self.num_items} items: {self.summary})"

    def draw(self, item: int, rng: np.random.Generator) -> tuple[int, int]:
        """The item's (anchor, positive), as positions in ``video_ids``; equal for a video alone."""
        anchor = int(self.anchors[item])
        begin, end = self.partners[item]
        others = self.members[begin:end]
        others = others[others != anchor]
        positive = int(others[rng.integers(len(others))]) if len(others) else anchor
        if self.undirected and rng.integers(2):
            return positive, anchor
        return anchor, positive

    def draw_negatives(self, anchor: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Videos to be pushed away from an anchor, as positions in ``video_ids``.

        Drawn from ``negatives`` without those that share a group with the anchor, and without repetition as long as
        there are enough. Where nothing is left, from all of them: the masks then keep them from counting.

        Args:
            anchor: a video.
            count: how many; int64 [count] is returned.
        """
        shared_B = np.zeros(len(self.negatives), dtype=np.bool_)
        for group in self.groups[anchor]:
            if group != NO_GROUP:
                shared_B |= (self._groups_of_negatives == group).any(axis=1)
        pool = self.negatives[~shared_B]
        pool = pool if len(pool) else self.negatives
        drawn: NDArray[np.int64] = rng.choice(pool, count, replace=count > len(pool))
        return drawn

    @cached_property
    def _groups_of_negatives(self) -> NDArray[np.int64]:
        return self.groups[self.negatives]

    def has_negatives(self, drawn: bool) -> bool:
        """Whether any anchor has a negative among what is embedded: videos with a positive, and with ``drawn`` those of
        ``negatives``."""
        items = np.concatenate([self.anchors, self.members] + ([self.negatives] if drawn else []))
        groups_SG = np.unique(self.groups[items], axis=0)
        for own in np.unique(self.groups[self.anchors], axis=0):
            if not np.isin(groups_SG, own[own != NO_GROUP]).any(axis=1).all():
                return True
        return False

    def digest(self) -> str:
        """sha256 (hex) of all of it: two runs with the same digest see the same items under the same numbers."""
        hasher = hashlib.sha256("\n".join(self.video_ids).encode("utf-8", errors="surrogateescape"))
        for array in (self.groups, self.anchors, self.partners, self.members, self.negatives):
            hasher.update(array.tobytes())
        hasher.update(bytes([self.undirected]))
        return hasher.hexdigest()


def match_labels(
    video_ids: Sequence[str],
    labels: Labels | None,
    held_out: frozenset[str] = frozenset(),
    *,
    negatives: Sequence[str] | None = None,
    swap_pairs: bool = True,
    max_missing_share: float = 1.0,
) -> Positives:
    """Bring labels and stored videos together.

    Args:
        video_ids: the videos of the feature store.
        labels: None makes every video an item of its own.
        held_out: videos kept for validation; they, everything in their connected components, and what shows a part of
            those, are left out.
        negatives: ids to draw negatives from; None takes those of the labels. Without any, or if none is stored, all
            videos may be drawn.
        swap_pairs: either video of a pair may be the anchor.
        max_missing_share: of the labelled videos, how large a share may lack features.

    Raises:
        ReelkinError: nothing remains to train on, or too many videos lack features; the message says why.
    """
    findings = Findings()
    known = groups_of(video_ids, labels)
    closed = {known[video_id] for video_id in held_out if video_id in known}
    parts = {video_id for video_id, other in labels.overlaps if known.get(other) in closed} if labels else set()
    kept = [video_id for video_id in video_ids if known[video_id] not in closed and video_id not in parts]
    number = {video_id: position for position, video_id in enumerate(kept)}
    if labels is not None:
        _check_missing(labels, frozenset(video_ids), max_missing_share, findings)
    if labels is None:
        anchors = members = np.arange(len(kept), dtype=np.int64)
        partners = np.stack([anchors, anchors + 1], axis=1)
        summary = f"{len(kept)} videos without labels; positives are edits of the features"
    elif labels.groups:
        anchors, partners, members = _items_of_groups(kept, number, labels)
        summary = _group_summary(labels, [kept[anchor] for anchor in anchors], len(video_ids) - len(kept))
    else:
        anchors, partners, members = _items_of_pairs(number, labels)
        summary = _pair_summary(labels, known, closed, len(anchors))
    if len(anchors) == 0:
        odd = "".join(f"; {finding}" for finding in (labels.findings if labels else ()) + findings.listed())
        raise ReelkinError(
            f"nothing to train on: {summary}{odd}. A positive takes two videos that show the same thing and whose ids "
            "are those of the feature store"
        )
    return Positives(
        video_ids=kept,
        groups=_group_table(kept, known, labels),
        anchors=anchors,
        partners=partners.astype(np.int64),
        members=members,
        negatives=_negative_pool(number, frozenset(video_ids), labels, negatives, findings),
        undirected=swap_pairs and labels is not None and bool(labels.pairs) and not labels.groups,
        summary=summary,
        findings=(labels.findings if labels else ()) + findings.listed(),
    )


def _check_missing(labels: Labels, stored: frozenset[str], most: float, findings: Findings) -> None:
    """Count the labelled videos without features; too large a share of them is an error."""
    labelled = dict.fromkeys(video_id for pair in labels.pairs for video_id in pair) | dict.fromkeys(labels.groups)
    missing = [video_id for video_id in labelled if video_id not in stored]
    findings.add_all("labelled videos without features, left out", missing)
    if missing and len(missing) == len(labelled):
        raise ReelkinError(
            f"nothing to train on: none of the {len(labelled)} videos of {labels.source} has features, such as "
            f"{missing[0]!r}. Check that the ids are those of the feature store"
        )
    if missing and len(missing) / len(labelled) > most:
        raise ReelkinError(
            f"{len(missing)} of the {len(labelled)} videos of {labels.source} have no features ({some_of(missing)}), "
            f"more than the share {most:g}. Extract them, or allow it: "
            f"--max-missing-share {np.ceil(100 * len(missing) / len(labelled)) / 100:g}"
        )


def _negative_pool(
    number: dict[str, int],
    stored: frozenset[str],
    labels: Labels | None,
    given: Sequence[str] | None,
    findings: Findings,
) -> NDArray[np.int64]:
    """int64 [B], videos that may be drawn as negatives."""
    wanted = list(given) if given is not None else labels.negatives if labels else []
    if given is not None:
        again = [video_id for video_id, times in Counter(wanted).items() if times > 1]
        findings.add_all("negatives listed more than once, counted once", again)
    distinct = list(dict.fromkeys(wanted))
    findings.add_all("negatives without features, left out", (each for each in distinct if each not in stored))
    pool = [number[video_id] for video_id in distinct if video_id in number]
    if distinct and not pool:
        if given is not None:
            raise ReelkinError(f"none of the {len(distinct)} ids of --negatives has features, such as {distinct[0]!r}")
        findings.add(
            "no background video is stored; negatives are drawn from all videos", labels.source if labels else ""
        )
    return np.array(pool or range(len(number)), dtype=np.int64)


def groups_of(video_ids: Sequence[str], labels: Labels | None) -> dict[str, int]:
    """Connected component of every stored and every labelled video.

    Videos of pairs that are not stored count too: two stored copies of a missing original show the same thing.
    """
    if labels is None:
        return connected_components([], video_ids)
    edges = list(labels.pairs)
    video_ids = [*video_ids, *(other for _, other in labels.overlaps)]
    first: dict[str, str] = {}
    for video_id, group in labels.groups.items():
        edges.append((first.setdefault(group, video_id), video_id))
    return connected_components(edges, video_ids)


def _group_table(kept: Sequence[str], known: dict[str, int], labels: Labels | None) -> NDArray[np.int64]:
    """int64 [V, G]: each video's component first, then those of which it shows a part, then `NO_GROUP`."""
    rows: dict[str, list[int]] = {video_id: [known[video_id]] for video_id in kept}
    for video_id, other in labels.overlaps if labels else []:
        if video_id in rows and other in known and known[other] not in rows[video_id]:
            rows[video_id].append(known[other])
    width = max(map(len, rows.values()), default=1)
    return np.array([row + [NO_GROUP] * (width - len(row)) for row in rows.values()], dtype=np.int64).reshape(-1, width)


def _items_of_pairs(
    number: dict[str, int], labels: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(anchors, partners, members): an item per pair of two different videos that are there."""
    whole = [(number[a], number[b]) for a, b in dict.fromkeys(labels.pairs) if a in number and b in number and a != b]
    anchors = np.array([a for a, _ in whole], dtype=np.int64)
    members = np.array([b for _, b in whole], dtype=np.int64)
    return anchors, np.arange(len(whole), dtype=np.int64)[:, None] + np.array([0, 1]), members


def _items_of_groups(
    kept: Sequence[str], number: dict[str, int], labels: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    by_group: dict[str, list[int]] = {}
    for video_id in kept:
        if video_id in labels.groups:
            by_group.setdefault(labels.groups[video_id], []).append(number[video_id])
    anchors: list[int] = []
    partners: list[tuple[int, int]] = []
    members: list[int] = []
    for group in sorted(by_group):
        if len(by_group[group]) > 1:
            begin = len(members)
            members += by_group[group]
            anchors += by_group[group]
            partners += [(begin, len(members))] * len(by_group[group])
    return (
        np.array(anchors, dtype=np.int64),
        np.array(partners, dtype=np.int64).reshape(-1, 2),
        np.array(members, dtype=np.int64),
    )


def _pair_summary(labels: Labels, known: dict[str, int], closed: set[int], used: int) -> str:
    if not labels.pairs:
        return f"{labels.source} says of no two videos that they show the same thing"
    text = f"{used} of {len(labels.pairs)} pairs of {labels.source}"
    held = sum(known[a] in closed for a, _ in labels.pairs)
    missing = len(labels.pairs) - used - held
    if held:
        text += f", {held} held out"
    return text + (f", {missing} without features of both videos" if missing > 0 else "")


def _group_summary(labels: Labels, anchors: Sequence[str], held: int) -> str:
    num_groups = len({labels.groups[video_id] for video_id in anchors})
    text = f"{len(anchors)} videos with a positive in {num_groups} groups of {labels.source}"
    return text + (f", {held} videos held out" if held else "")
