"""The benchmarks' figures by plain dictionaries and loops, one pair at a time, written from their descriptions.

Nothing here knows numpy, arrays or the code under test; only the annotation's fields are shared.
"""

from __future__ import annotations

from collections.abc import Iterable

from reelkin.evaluate.published.annotation import Annotation

Similarities = dict[str, dict[str, float]]
"""By query and video, in the order in which the scores list them; a pair without a score is not there."""
Figures = dict[str, float | None]

FIVR = {"DSV": ("ND", "DS"), "CSV": ("ND", "DS", "CS"), "ISV": ("ND", "DS", "CS", "IS")}


def expected_precision_sum(pairs: Iterable[tuple[float, bool]]) -> float:
    """Sum over positives of the precision at their place, in the mean over all orders of equal scores.

    Videos of one score are drawn one by one from their urn; ``chance[h]`` is the probability that h of those drawn so
    far were positive.
    """
    by_score: dict[float, list[bool]] = {}
    for score, hit in pairs:
        by_score.setdefault(score, []).append(hit)
    total, places, hits = 0.0, 0, 0
    for score in sorted(by_score, reverse=True):
        urn = by_score[score]
        size, good = len(urn), sum(urn)
        chance = {0: 1.0}
        for drawn in range(size):
            after: dict[int, float] = {}
            for so_far, p in chance.items():
                p_hit = (good - so_far) / (size - drawn)
                if p_hit > 0:
                    total += p * p_hit * (hits + so_far + 1) / (places + drawn + 1)
                    after[so_far + 1] = after.get(so_far + 1, 0.0) + p * p_hit
                if p_hit < 1:
                    after[so_far] = after.get(so_far, 0.0) + p * (1 - p_hit)
            chance = after
        places += size
        hits += good
    return total


def ordered_precision_sum(hits: Iterable[bool]) -> float:
    """The same for a list in rank order."""
    found, total = 0, 0.0
    for place, hit in enumerate(hits, 1):
        if hit:
            found += 1
            total += found / place
    return total


def trapezoids(hits: Iterable[bool], num_positives: int) -> float:
    """Area under precision and recall, precision taken just before and at each hit and averaged."""
    found, area = 0, 0.0
    for seen, hit in enumerate(hits):
        if hit:
            before = found / seen if seen else 1.0
            found += 1
            area += (before + found / (seen + 1)) / 2
    return area / num_positives


def threshold_average(pairs: list[tuple[float, bool]]) -> float:
    """Steps of recall between falling thresholds times the precision at the lower one."""
    positives = sum(hit for _, hit in pairs)
    if not positives:
        return 0.0
    area, recall_before = 0.0, 0.0
    for threshold in sorted({score for score, _ in pairs}, reverse=True):
        taken = [hit for score, hit in pairs if score >= threshold]
        recall = sum(taken) / positives
        area += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    return area


def falling(row: dict[str, float]) -> list[str]:
    """Ids by falling score; Python keeps equal ones in their order."""
    return sorted(row, key=lambda video_id: row[video_id], reverse=True)


def rising_reversed(pairs: list[tuple[float, bool]]) -> list[bool]:
    """Hits by a stable sort of rising scores, read backwards."""
    return [hit for _, hit in sorted(pairs, key=lambda pair: pair[0])][::-1]


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None without any."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


class Brute:
    """Figures of one annotation and similarities (ids in the annotation's spelling, known queries only)."""

    def __init__(self, annotation: Annotation, similarities: Similarities, columns: list[str]) -> None:
        self.a = annotation
        self.sims = {query: similarities[query] for query in annotation.queries if query in similarities}
        wanted = columns if annotation.database is None else annotation.database
        self.db = [video_id for video_id in columns if video_id in set(wanted)]
        self.seen = set(self.db) | set(self.sims)

    def figures(self, protocol: str) -> Figures:
        name = self.a.dataset.split("-")[0].lower()
        return getattr(self, f"{protocol}_{name}")()

    def listed(self, query: str, labels: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for label in labels:
            found.update(self.a.labels.get(query, {}).get(label, ()))
        return found

    # -- corrected ------------------------------------------------------------------------------------------------

    def expected(self, query: str, positives: set[str], ranked: Iterable[str]) -> float | None:
        """``positives`` and ``ranked`` are of the database that is there; unscored pairs are never found."""
        if not positives:
            return None
        row = self.sims[query]
        return expected_precision_sum((row[v], v in positives) for v in ranked if v in row) / len(positives)

    def corrected(self, labels: Iterable[str], *, pooled: bool) -> dict[str, float | None] | float | None:
        aps: dict[str, float | None] = {}
        pool: list[tuple[float, bool]] = []
        total = 0
        for query, row in self.sims.items():
            ignored = {query} | set(self.a.unclear.get(query, ()))
            ranked = [video_id for video_id in self.db if video_id not in ignored]
            if self.a.judged_only:
                own = self.listed(query, self.a.labels.get(query, {}))
                ranked = [video_id for video_id in ranked if video_id in own or video_id in self.a.unlabeled]
            positives = self.listed(query, labels) & set(ranked)
            aps[query] = self.expected(query, positives, ranked)
            pool += [(row[video_id], video_id in positives) for video_id in ranked if video_id in row]
            total += len(positives)
        if pooled:
            return expected_precision_sum(pool) / total if total else None
        return aps

    def corrected_fivr(self) -> Figures:
        figures: Figures = {}
        for task, labels in FIVR.items():
            figures[f"{task}R"] = mean(self.corrected(labels, pooled=False).values())
            figures[f"{task}D"] = self.corrected(labels, pooled=True)
        return figures

    def corrected_vcdb(self) -> Figures:
        return {
            "mAP": mean(self.corrected(["copy"], pooled=False).values()),
            "uAP": self.corrected(["copy"], pooled=True),
        }

    def corrected_pairs(self) -> Figures:
        aps = self.corrected(["positive"], pooled=False)
        return {"mAP": mean(aps.values()), "uAP": self.corrected(["positive"], pooled=True)}

    def corrected_svd(self) -> Figures:
        return {"mAP": mean(self.corrected(["1"], pooled=False).values())}

    def corrected_evve(self) -> Figures:
        aps = self.corrected(["event"], pooled=False)
        figures = {"mAP": mean(aps.values()), "uAP": self.corrected(["event"], pooled=True)}
        return figures | self.events(aps)

    def events(self, aps: dict[str, float | None]) -> Figures:
        names = sorted(set(self.a.groups.values()))
        return {name: mean(ap for query, ap in aps.items() if self.a.groups[query] == name) for name in names}

    def corrected_cc_web_video(self) -> Figures:
        figures: Figures = {}
        for name in ("cc_web", "cc_web*", "cc_web_c", "cc_web_c*"):
            aps = []
            for query in self.sims:
                out = {query} | (set(self.a.excluded.get(query, ())) if "_c" in name.removeprefix("cc_web") else set())
                ranked = [video_id for video_id in self.db if video_id not in out]
                if not name.endswith("*"):
                    own = self.listed(query, self.a.labels[query])
                    ranked = [video_id for video_id in ranked if video_id in own]
                aps.append(self.expected(query, self.listed(query, "ESLMV") & set(ranked), ranked))
            figures[name] = mean(aps)
        return figures

    # -- as published -----------------------------------------------------------------------------------------------

    def legacy_fivr(self) -> Figures:
        figures: Figures = {}
        for task, labels in FIVR.items():
            aps = []
            for query, row in self.sims.items():
                positives = self.listed(query, labels) & self.seen
                ranking = [v for v in falling(row) if v != query and v in self.db]
                hits = ordered_precision_sum(v in positives for v in ranking)
                aps.append(hits / len(positives) if positives else None)
            figures[f"{task}R"] = mean(aps)
            figures[f"{task}D"] = self.reversed_pool(labels)
        return figures

    def reversed_pool(self, labels: Iterable[str], *, with_query: bool = False) -> float | None:
        """S2VS's micro average precision; ``with_query``: a query that is listed as its own positive counts."""
        pool: list[tuple[float, bool]] = []
        total = 0
        for query, row in self.sims.items():
            positives = self.listed(query, labels) & set(self.db)
            if not with_query:
                positives -= {query}
            total += len(positives)
            for video_id in row:
                if video_id != query and video_id in self.db and self.ranked_for(query, video_id):
                    pool.append((row[video_id], video_id in positives))
        return ordered_precision_sum(rising_reversed(pool)) / total if total else None

    def ranked_for(self, query: str, video_id: str) -> bool:
        """PAIRS takes unclear pairs and, if asked to, those not judged out of every ranking."""
        if self.a.dataset != "PAIRS":
            return True
        own = self.listed(query, self.a.labels.get(query, {}))
        unclear = self.a.unclear.get(query, ())
        return video_id not in unclear and (not self.a.judged_only or video_id in own)

    def legacy_vcdb(self) -> Figures:
        aps = []
        for query, row in self.sims.items():
            positives = (self.listed(query, ["copy"]) | {query}) & self.seen
            ranking = [v for v in falling(row) if v != query and v in self.db]
            aps.append(ordered_precision_sum(v in positives for v in ranking) / len(positives))
        return {"mAP": mean(aps), "uAP": self.reversed_pool(["copy"])}

    def legacy_cc_web_video(self) -> Figures:
        figures: Figures = {}
        for name in ("cc_web", "cc_web*", "cc_web_c", "cc_web_c*"):
            aps = []
            for query, row in self.sims.items():
                out = self.a.excluded.get(query, ()) if "_c" in name.removeprefix("cc_web") else ()
                own = self.listed(query, self.a.labels[query])
                ranking = [v for v in falling(row) if v in self.db and v not in out]
                if not name.endswith("*"):
                    ranking = [v for v in ranking if v in own]
                positives = {v for v in self.listed(query, "ESLMV") if v not in out}
                hits = ordered_precision_sum(v in positives for v in ranking)
                aps.append(hits / len(positives) if positives else None)
            figures[name] = mean(aps)
        return figures

    def legacy_evve(self) -> Figures:
        aps: dict[str, float | None] = {}
        for query, row in self.sims.items():
            positives = self.listed(query, ["event"]) & set(self.db)
            ranking = [v for v in falling(row) if v in self.db]
            aps[query] = trapezoids([v in positives for v in ranking], len(positives)) if positives else 0.0
        return {"mAP": mean(aps.values()), "uAP": self.evve_pool()} | self.events(aps)

    def evve_pool(self) -> float | None:
        pool: list[tuple[float, bool]] = []
        total = 0
        for query, row in self.sims.items():
            positives = self.listed(query, ["event"]) & set(self.db)
            total += len(positives)
            pool += [(row[v], v in positives) for v in row if v in self.db]
        return ordered_precision_sum(rising_reversed(pool)) / total if total else None

    def legacy_svd(self) -> Figures:
        aps = []
        for query, row in self.sims.items():
            own = self.listed(query, "10")
            ranked = [v for v in self.db if (v in own or v in self.a.unlabeled) and v in row]
            aps.append(threshold_average([(row[v], v in self.listed(query, "1")) for v in ranked]))
        return {"mAP": mean(aps)}

    def legacy_pairs(self) -> Figures:
        aps = []
        for query, row in self.sims.items():
            positives = self.listed(query, ["positive"]) & set(self.db)
            pairs = [(row[v], v in positives) for v in row if v != query and v in self.db and self.ranked_for(query, v)]
            aps.append(ordered_precision_sum(rising_reversed(pairs)) / len(positives) if positives else None)
        return {"mAP": mean(aps), "uAP": self.reversed_pool(["positive"], with_query=True)}
