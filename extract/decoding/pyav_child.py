"""A child process that decodes clips with PyAV. Started by `pool.DecodePool`; not meant to be run by hand.

It also reads what every decoder needs to know of a clip (the plan); a clip that DALI can take is handed back with its
frame numbers instead of being decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError, Reason, UsageError
from ...core.files import sha256_bytes
from ...shards.video.container import Limits
from ...shards.video.decode import iter_frames
from ...shards.video.probe import DecodingPlan, make_plan
from ...shards.video.sampling import Samples, Sampling, choose
from .child import Failure, Handle, Output, serve
from .dali_request import ClipRequest
from .geometry import Geometry
from .route import ClipFacts, Hardware, why_not_dali

_MOST_FOR_DALI = 500_000  # frame numbers in a message
_SECONDS_PER_SECOND = 10.0  # of processor for a second of video, before a clip counts as one that never ends


def prepare(settings: dict[str, Any]) -> Handle:
    """Read the settings: sampling, geometry, limits."""
    sampling, geometry = Sampling.from_dict(settings["sampling"]), Geometry(**settings["geometry"])
    limits = Limits(**settings["limits"])
    hardware = Hardware.from_dict(settings["hardware"]) if settings["hardware"] else None

    def handle(request: dict[str, Any], out: Output) -> None:
        source = read_source(request)
        plan = make_plan(source, limits=limits)
        out.allow(request["seconds"] + _SECONDS_PER_SECOND * plan.probe.duration_seconds)
        try:
            samples = choose(plan, sampling, request["start_seconds"])
        except UsageError as error:
            raise Failure(str(error)) from error
        if request["ask"]:
            samples = samples.take(np.asarray(out.ask({"count": len(samples)})["wanted"], np.int64))
        few = len(samples) <= _MOST_FOR_DALI
        if hardware and few and request["to_dali"] and not why_not_dali(ClipFacts.of(plan), hardware, geometry.scaling):
            place = (Path(request["path"]), request["offset"], request["bytes"])
            out.say(request=ClipRequest.of(*place, plan, samples, geometry).as_dict())
            return
        _decode(source, plan, samples, geometry, limits, request["skip"], out)

    return handle


def read_source(request: dict[str, Any]) -> Path | bytes:
    """The clip's bytes, or the path when it is a file of its own.

    Raises:
        Failure: a member of a shard is not as it was written.
        DataError: UNREADABLE.
    """
    path = Path(request["path"])
    if request["bytes"] is None:
        return path
    try:
        with open(path, "rb") as file:
            file.seek(request["offset"])
            data = file.read(request["bytes"])
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
    if len(data) != request["bytes"] or (request["sha256"] and sha256_bytes(data) != request["sha256"]):
        raise Failure(
            f"{path}: the clip at byte {request['offset']} is not as it was written; the disk or a copy damaged the "
            "shard. shards/verify.py says what else is damaged; mend it with shards/build.py and run this command again"
        )
    return data


def _decode(
    source: Path | bytes,
    plan: DecodingPlan,
    samples: Samples,
    geometry: Geometry,
    limits: Limits,
    skip: int,
    out: Output,
) -> None:
    """Send the sampled pictures but the first ``skip``, which the parent has already."""
    samples = samples.take(np.arange(skip, len(samples)))
    frames = iter_frames(
        source, plan=plan, samples=samples, short_side=geometry.short_side, scaling=geometry.scaling, limits=limits
    )
    room, filled, number = None, 0, -1
    for number, frame in enumerate(frames):
        picture = geometry.cut(frame.picture)
        if room is None:
            room, filled = out.room((out.at_once(len(samples) - number, picture.shape), *picture.shape)), 0
        room[filled] = picture
        filled += 1
        if filled == len(room):
            out.sent(samples.times[number + 1 - filled : number + 1])
            room = None
    if room is not None:
        out.sent(samples.times[number + 1 - filled : number + 1])
    if len(samples) and number < 0:
        raise DataError(Reason.NO_FRAMES, "no picture could be decoded")


if __name__ == "__main__":
    serve(prepare)
