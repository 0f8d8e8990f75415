"""Reads shards with DALI alone, in a process of its own: DALI can end the process that it fails in.

Run as a file with one JSON argument: ``tars``, ``indices`` (empty to go without), ``containers``, ``decode``,
``output``.
Writes a JSON list with an entry per sample, in DALI's order: ``name`` of the video's member, ``sha256`` of the video,
``json`` (the other member's text) and, when decoding, ``shape`` of the pictures.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def pipeline(tars: list[str], indices: list[str], containers: list[str], decode: bool) -> tuple[Any, ...]:
    """The video, the JSON member, where they come from and, when decoding, the pictures on the CPU."""
    video, facts = fn.readers.webdataset(
        name="reader",
        paths=tars,
        ext=[";".join(containers), "json"],
        missing_component_behavior="error",
        dont_use_mmap=True,
        **({"index_paths": indices} if indices else {}),
    )
    source = fn.get_property(video, key="source_info")
    return (video, facts, source, fn.decoders.video(video, device="cpu")) if decode else (video, facts, source)


def main() -> None:
    """Read one epoch."""
    wanted = json.loads(sys.argv[1])
    reader = pipeline(wanted["tars"], wanted["indices"], wanted["containers"], wanted["decode"])
    reader.build()
    samples = []
    for _ in range(reader.epoch_size("reader")):
        video, facts, source, *pictures = (batch.at(0) for batch in reader.run())
        sample: dict[str, Any] = {
            "name": bytes(source).decode().rpartition(":")[2],
            "sha256": hashlib.sha256(bytes(video)).hexdigest(),
            "json": bytes(facts).decode(),
        }
        if pictures:
            sample["shape"] = list(pictures[0].shape)
        samples.append(sample)
    Path(wanted["output"]).write_text(json.dumps(samples))


if __name__ == "__main__":
    main()
