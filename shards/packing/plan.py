"""Which video goes into which shard: decided from the sorted list of inputs alone, before any is opened.

So the assignment depends neither on the number of workers nor on which videos turn out to be unusable, and a shard is
the unit of work, of spreading over ranks and of going on after a stop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import Reason, UsageError
from ...core.files import publish_json, read_json, sha256_bytes
from ..sources.inputs import VideoInput, total_bytes

PLAN_NAME = "plan.json"
_FORMAT, _VERSION = "reelkin-shards-plan", 1


@dataclass(frozen=True)
class Group:
    """The inputs of one shard.

    Attributes:
        number: of the shard.
        inputs: in ascending order of id.
        sha256: hash of the settings and of the inputs' ids, names, sizes and times of change.
    """

    number: int
    inputs: tuple[VideoInput, ...]
    sha256: str

    @property
    def shard_name(self) -> str:
        """File name of the tar."""
        return f"clips-{self.number:06d}.tar"


def cut_into_groups(inputs: Sequence[VideoInput], config: dict[str, Any]) -> list[Group]:
    """Cut the sorted inputs into groups of at most ``config["shard_bytes"]`` and ``config["shard_videos"]``.

    A group holds at least one input, so a larger video gets one to itself.
    """
    groups: list[list[VideoInput]] = []
    size = 0
    for entry in inputs:
        length = max(0, entry.bytes)
        if not groups or len(groups[-1]) >= config["shard_videos"] or size + length > config["shard_bytes"]:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += length
    return [Group(number, tuple(group), _fingerprint(group, config)) for number, group in enumerate(groups)]


def _fingerprint(inputs: Sequence[VideoInput], config: dict[str, Any]) -> str:
    # shard_bytes and the like only decide which inputs are in the group, and the inputs are hashed themselves.
    settings = {name: config[name] for name in ("check", "max_side", "max_pixels", "max_hours")}
    rows = [[i.video_id, i.name, i.bytes, i.modified_ns, i.reason, i.detail] for i in inputs]
    return sha256_bytes(json.dumps([settings, rows], ensure_ascii=True).encode("ascii"))


@dataclass(frozen=True)
class Plan:
    """Everything that ranks must agree on before they start.

    Attributes:
        groups: one per shard.
        config: `BuildConfig.effective`.
        sha256: hash over the groups.
    """

    groups: list[Group]
    config: dict[str, Any]
    sha256: str

    @classmethod
    def make(cls, inputs: Sequence[VideoInput], config: dict[str, Any]) -> Plan:
        """Plan a build of ``inputs``, sorted by id."""
        groups = cut_into_groups(inputs, config)
        return cls(groups, config, sha256_bytes("".join(group.sha256 for group in groups).encode("ascii")))

    @property
    def num_inputs(self) -> int:
        """Inputs in all groups."""
        return sum(len(group.inputs) for group in self.groups)

    @property
    def bytes(self) -> int:
        """Size of all inputs that exist."""
        return sum(total_bytes(group.inputs) for group in self.groups)

    def to_plain(self) -> dict[str, Any]:
        """As values that can be sent to other ranks."""
        return {
            "config": self.config,
            "sha256": self.sha256,
            "groups": [{"sha256": g.sha256, "inputs": [_plain(i) for i in g.inputs]} for g in self.groups],
        }

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> Plan:
        """The inverse of `to_plain`."""
        groups = [
            Group(number, tuple(_input(values) for values in group["inputs"]), group["sha256"])
            for number, group in enumerate(value["groups"])
        ]
        return cls(groups, value["config"], value["sha256"])

    def settle(self, output: Path, rebuild: bool) -> None:
        """Check that ``output`` is new or belongs to the same plan, and write the plan into it.

        Raises:
            UsageError: the folder was built with other settings or inputs, and ``rebuild`` was not asked for.
        """
        path = output / PLAN_NAME
        record = {
            "format": _FORMAT,
            "version": _VERSION,
            "config": self.config,
            "inputs_sha256": self.sha256,
            "num_inputs": self.num_inputs,
            "num_shards": len(self.groups),
        }
        if path.exists():
            found = read_json(path)
            if found == record:
                return
            if not rebuild:
                raise UsageError(
                    f"output: {output} was built with {_difference(found, record)}. Choose another folder, or add "
                    "--rebuild to replace what has changed there"
                )
        elif (output / "shards.json").exists() and not rebuild:
            raise UsageError(
                f"output: {output} holds shards without a {PLAN_NAME}; choose another folder, or add --rebuild"
            )
        (output / "shards.json").unlink(missing_ok=True)  # from here on the folder is unfinished
        publish_json(path, record)


def _plain(entry: VideoInput) -> list[Any]:
    reason = None if entry.reason is None else entry.reason.value
    return [entry.video_id, entry.path, entry.name, entry.bytes, entry.modified_ns, reason, entry.detail]


def _input(values: list[Any]) -> VideoInput:
    video_id, path, name, size, modified_ns, reason, detail = values
    return VideoInput(video_id, path, name, size, modified_ns, None if reason is None else Reason(reason), detail)


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict) or found.get("format") != _FORMAT or found.get("version") != _VERSION:
        return "another version of reelkin"
    then = found.get("config", {})
    changed = [
        f"{name} {then.get(name)} instead of {value}"
        for name, value in wanted["config"].items()
        if then.get(name) != value
    ]
    if changed:
        return "other settings: " + ", ".join(changed)
    if found.get("num_inputs") != wanted["num_inputs"]:
        return f"{found.get('num_inputs')} inputs instead of {wanted['num_inputs']}"
    return "other inputs (files were renamed, exchanged or changed since)"
