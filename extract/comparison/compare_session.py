"""What ``extract/compare_decoders.py`` does between reading its flags and its last line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ...core.engine import start
from ...core.errors import ExitCode, UsageError
from ...core.files import publishing
from ...core.logs import one_line
from ...shards.manifest import OK
from ...shards.reader import ShardSet
from ...shards.sources.listing import list_videos
from ..decoding.geometry import Geometry
from ..decoding.route import Hardware
from ..decoding.tasks import Source
from ..encoders import EncoderSpec, Precision, build_encoder, encoder_list
from .comparing import Comparison, Row


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare what DALI and PyAV decode of your videos: which takes each and why, and whether they agree.

    Ends with exit code 1 when they differ somewhere.
    """

    videos: tuple[Path, ...] = ()
    """Video files, folders of them, or lists."""

    shards: Path | None = None
    """Or a folder made by shards/build.py."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where DALI decodes. On the CPU it takes VP8, VP9 and MJPEG only."""

    device_id: int = 0
    """Number of the GPU."""

    encoder: Annotated[
        str, tyro.conf.arg(help=f"Compare features as well. {encoder_list()}. Default: pixels only.")
    ] = ""

    weights: str = "default"
    """The encoder's weights, as for extract/run.py."""

    size: int | None = None
    """Short side of the frames in pixels. Default: the encoder's, or 256."""

    crop: int | None = None
    """Side of the centre crop in pixels, 0 for the whole picture. Default: the encoder's, or 0."""

    precision: Precision = "float32"
    """Of the encoder's convolutions."""

    frames: int = 16
    """Most pictures to compare of each clip; they are spread over its length."""

    least_cosine: float = 0.999
    """Between the features of the two decoders; a clip counts as different when it is below this, and below what noise
    of one level of 255 does to the features of the same pictures."""

    output: Path | None = None
    """Write the table to this CSV file too."""

    limit: int | None = None
    """Only the first so many videos; default all."""

    dry_run: bool = False
    """Say which decoder takes each video, and stop: nothing but the first picture is decoded."""

    def __post_init__(self) -> None:
        if bool(self.videos) == bool(self.shards):
            raise UsageError("videos, shards: give one of them: --videos FILES AND FOLDERS, or --shards FOLDER")
        if self.frames < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError(f"frames {self.frames}, limit {self.limit}: both must be at least 1")
        if not 0 < self.least_cosine <= 1:
            raise UsageError(f"least_cosine: {self.least_cosine} is no cosine; 0.999 is usual")
        if self.encoder:
            _ = self.spec

    @property
    def spec(self) -> EncoderSpec:
        """The encoder as the library takes it."""
        return EncoderSpec(self.encoder, self.weights, self.size, self.crop, precision=self.precision)


def sources_of(config: CompareConfig) -> Iterator[Source | Row]:
    """The clips; a `Row` for what is none. Raises UsageError for a path that does not exist."""
    if config.shards is None:
        for each in list_videos(list(config.videos)).inputs[: config.limit]:
            yield (
                Row(each.name, "", f"{each.reason}: {each.detail}")
                if each.reason
                else Source(each.name, Path(each.path))
            )
        return
    shards = ShardSet.open(config.shards)
    wanted = {video.video_id for video in shards.videos[: config.limit] if video.status == OK}
    for shard in shards.shard_names:
        for clip in shards.clips_of(shard):
            if clip.video_id in wanted:
                yield Source(f"{clip.video_id} ({clip.key})", shards.folder / shard, clip.offset, clip.bytes)


def run_compare(config: CompareConfig) -> int:
    """Do what ``extract/compare_decoders.py`` was asked; returns its exit code."""
    rows: list[Row] = []
    hardware = Hardware.gpu(config.device_id) if config.device == "gpu" else Hardware()
    with start("single") as engine:
        encoder = build_encoder(config.spec, engine.device) if config.encoder and not config.dry_run else None
        geometry = encoder.preprocessing.geometry if encoder else Geometry(config.size or 256, config.crop or 0)
        limits: dict[str, Any] = {"frames": config.frames, "least_cosine": config.least_cosine}
        with Comparison(hardware, geometry, encoder, device_id=config.device_id, **limits) as comparison:
            for source in sources_of(config):
                decode = not config.dry_run
                rows.append(source if isinstance(source, Row) else comparison.compare(source, decode=decode))
                print(rows[-1], flush=True)
    if config.output is not None:
        write_table(config.output, rows)
    different = [row for row in rows if row.differs]
    taken = {decoder: sum(row.decoder == decoder for row in rows) for decoder in ("dali", "pyav", "")}
    print(
        f"{len(rows)} clips on {hardware.name}: DALI takes {taken['dali']}, PyAV {taken['pyav']}, neither {taken['']}; "
        + ("nothing was decoded" if config.dry_run else f"{len(different)} differ"),
        *(one_line(f"  differs: {row.name}: {row.differs}") for row in different),
        *([f"written: {config.output}"] if config.output else []),
        sep="\n",
    )
    return ExitCode.FAILED if different else ExitCode.OK


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Publish the rows as CSV (RFC 4180), with a line of names."""
    with publishing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table: Any = csv.writer(file)
        table.writerow([field.name for field in fields(Row)])
        table.writerows(astuple(row) for row in rows)
