"""The record beside each block of a store in the making (``features-000000.json``): what the block was made from.

It is published after its block. A rerun keeps every block whose record says that it holds what is wanted, and takes
single videos out of blocks that hold some of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ReelkinError, UsageError
from ...core.files import publish_json, read_json
from ..store import FORMAT as STORE_FORMAT
from ..store import VERSION as STORE_VERSION
from ..store import Block, StoreRow

FORMAT, VERSION = "reelkin-features-record", 2

_WHERE = ("weights", "weights_path")  # what a file is called decides nothing; its hash does


@dataclass(frozen=True)
class Record:
    """What a block holds.

    Attributes:
        settings: what decides the features (see `settings_of`).
        made_from: of each video with a row, the hash of its clips.
        block: the block.
        rows: of its videos, rejected ones included.
    """

    settings: Mapping[str, Any]
    made_from: Mapping[str, str]
    block: Block
    rows: Sequence[StoreRow]

    def publish(self, folder: Path) -> None:
        """Write it beside its block."""
        rows = [asdict(row) for row in self.rows]
        text = {"settings": self.settings, "made_from": self.made_from, "block": asdict(self.block), "rows": rows}
        publish_json(record_path(folder, self.block.name), {"format": FORMAT, "version": VERSION, **text})


def record_path(folder: Path, block: str) -> Path:
    """Where the record of a block lies."""
    return folder / (Path(block).stem + ".json")


def read_record(folder: Path, block: str) -> Record | None:
    """The record of a block, or None when there is none of this version, or its block is not there as a whole."""
    path = record_path(folder, block)
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        return None
    try:
        rows = [StoreRow(**row) for row in found["rows"]]
        record = Record(found["settings"], found["made_from"], Block(**found["block"]), rows)
    except (KeyError, TypeError) as error:
        raise ReelkinError(f"{path} is damaged ({error}); remove it, and run the same command again") from error
    file = folder / record.block.name
    whole = file.exists() and file.stat().st_size == record.block.bytes
    return record if whole else None


def settings_of(
    encoder_info: Mapping[str, Any], pca_sha256: str | None, sampling: Mapping[str, Any], decoder: str
) -> dict[str, Any]:
    """What decides the features: equal settings, comparable features."""
    encoder = {key: value for key, value in encoder_info.items() if key not in _WHERE}
    return {"encoder": encoder, "pca_sha256": pca_sha256, "sampling": dict(sampling), "decoder": decoder}


def settings_in(info: Mapping[str, Any]) -> dict[str, Any]:
    """The same from the content of a store.json."""
    pca = info.get("pca") or {}
    return settings_of(
        info.get("encoder") or {}, pca.get("sha256"), info.get("sampling") or {}, info.get("decoder") or ""
    )


def refuse_other_store(output: Path, settings: Mapping[str, Any]) -> None:
    """Raise UsageError when ``output`` holds a store with other settings, or a store.json of something else."""
    path = output / "store.json"
    if not path.exists():
        return
    info = read_json(path)
    if not isinstance(info, dict) or (info.get("format"), info.get("version")) != (STORE_FORMAT, STORE_VERSION):
        raise UsageError(
            f"{path} is not of a feature store of this version ({STORE_FORMAT} {STORE_VERSION}); choose another "
            "--output, or pass --rebuild to replace it"
        )
    refuse_others(output, settings_in(info), settings)


def refuse_others(output: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise UsageError unless the settings are the same; the message names what differs."""
    if found != settings:
        raise UsageError(
            f"{output} holds features with other settings ({difference(found, settings)}); choose another --output, "
            "or pass --rebuild to replace them"
        )


def difference(old: Any, new: Any, name: str = "") -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        parts = (difference(old.get(key), new.get(key), f"{name}.{key}" if name else key) for key in {**old, **new})
        return ", ".join(part for part in parts if part)
    return "" if old == new else f"{name} was {old!r}, is {new!r} now"
