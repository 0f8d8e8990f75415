"""What a folder of shards was built from: rounds (the build, then retries and additions), and videos taken out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ...core.errors import ReelkinError, UsageError
from ...core.files import publish_json, read_json
from .plan import Plan

PLAN_NAME, REMOVED_NAME = "plan.json", "removed.json"
_FORMAT, _VERSION = "reelkin-shards-plan", 2
RoundKind = Literal["build", "retry", "add"]


@dataclass(frozen=True)
class Round:
    """One pass over inputs, which wrote shards of its own.

    Attributes:
        kind: the first build; a retry of rejected inputs; inputs that were added later.
        reasons: of a retry: whose rejects it took up again.
        config: `BuildConfig.effective`.
        inputs_sha256: `Plan.sha256`.
        num_inputs, first_shard, num_shards: of the plan.
        complete: all its shards are written.
    """

    kind: RoundKind
    reasons: list[str]
    config: dict[str, Any]
    inputs_sha256: str
    num_inputs: int
    first_shard: int
    num_shards: int
    complete: bool = False

    @classmethod
    def of(cls, kind: RoundKind, reasons: Iterable[str], plan: Plan) -> Round:
        """A round that has just begun."""
        return cls(kind, sorted(reasons), plan.config, plan.sha256, plan.num_inputs, plan.first_shard, len(plan))

    @property
    def shards(self) -> range:
        """Numbers of its shards."""
        return range(self.first_shard, self.first_shard + self.num_shards)

    def same_work(self, other: Round) -> bool:
        """Whether both come to the same shards."""
        return replace(self, complete=False) == replace(other, complete=False)


@dataclass
class State:
    """The rounds of a folder. Kept in plan.json."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def next_shard(self) -> int:
        """Number that the next round's first shard gets."""
        return sum(step.num_shards for step in self.rounds)

    @property
    def pending(self) -> Round | None:
        """The last round, when its shards are not all written."""
        return self.rounds[-1] if self.rounds and not self.rounds[-1].complete else None

    def publish(self, output: Path) -> None:
        """Write plan.json. Raises ReelkinError when that fails."""
        value = {"format": _FORMAT, "version": _VERSION, "rounds": [asdict(step) for step in self.rounds]}
        publish_json(output / PLAN_NAME, value)

    @classmethod
    def read(cls, output: Path) -> State:
        """The state of a folder; empty for a new one.

        Raises:
            UsageError: the folder holds shards of another version.
        """
        path = output / PLAN_NAME
        if not path.exists():
            return cls()
        value = read_json(path)
        try:
            if (value["format"], value["version"]) != (_FORMAT, _VERSION):
                raise ValueError
            return cls([Round(**step) for step in value["rounds"]])
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"output: {path} is of another version of reelkin; choose another folder, or remove this one and build "
                "it again"
            ) from None


def read_removed(output: Path) -> frozenset[str]:
    """Ids of the videos that were taken out of a folder."""
    path = output / REMOVED_NAME
    if not path.exists():
        return frozenset()
    try:
        return frozenset(map(str, read_json(path)["video_ids"]))
    except (KeyError, TypeError):
        raise ReelkinError(f"{path} does not list removed videos; restore it from a copy") from None


def write_removed(output: Path, video_ids: Iterable[str]) -> None:
    """Publish the ids of the videos that were taken out."""
    publish_json(output / REMOVED_NAME, {"video_ids": sorted(video_ids)})


def difference(found: Round, wanted: Round) -> str:
    """In what two rounds differ, in words."""
    changed = [
        f"{name} {found.config.get(name)} instead of {value}"
        for name, value in wanted.config.items()
        if found.config.get(name) != value
    ]
    if changed:
        return "other settings: " + ", ".join(changed)
    if found.num_inputs != wanted.num_inputs:
        return f"{found.num_inputs} inputs instead of {wanted.num_inputs}"
    return "other inputs (files were renamed, exchanged or changed since)"
