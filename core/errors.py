"""Exit codes, the exceptions a user sees, and the closed set of reasons for which a sample is rejected.

``ReelkinError`` carries a message for a person: what is wrong, where, the value, and what to do next.
A ``DataError`` belongs to one sample: it becomes a rejected row in a manifest and never ends a run.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """How a command ended; the same everywhere, and written into the outcome file of each stage."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REJECTS = 3
    """Finished, but more inputs were rejected than the budget allows."""
    STOPPED = 75
    """Stopped on request; the same command goes on from here."""


class Reason(StrEnum):
    """Why a video is rejected. ``reason.meaning`` says it in a sentence; manifests hold the value."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty-file"
    NOT_A_VIDEO = "not-a-video"
    FORBIDDEN_FORMAT = "forbidden-format"
    NO_VIDEO_STREAM = "no-video-stream"
    NO_FRAMES = "no-frames"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    BAD_DIMENSIONS = "bad-dimensions"
    TOO_LARGE = "too-large"
    TOO_LONG = "too-long"
    BAD_FRAMES = "bad-frames"
    DUPLICATE_ID = "duplicate-id"
    BAD_ID = "bad-id"
    TIMEOUT = "timeout"
    DECODER_DIED = "decoder-died"
    REMOVED = "removed"
    ENCODER_FAILED = "encoder-failed"

    @property
    def meaning(self) -> str:
        """One sentence for a person."""
        return _MEANINGS[self]


_MEANINGS: dict[Reason, str] = {
    Reason.MISSING: "the file named in a list does not exist",
    Reason.UNREADABLE: "the file exists but the operating system refuses to read it",
    Reason.EMPTY_FILE: "the file holds no bytes",
    Reason.NOT_A_VIDEO: "no known container format was found in the file's bytes",
    Reason.FORBIDDEN_FORMAT: "a playlist or concatenation list: reading it would open other files",
    Reason.NO_VIDEO_STREAM: "the container holds no video stream (audio only, or subtitles)",
    Reason.NO_FRAMES: "the video stream yields no picture",
    Reason.TRUNCATED: "the file ends before the pictures it announces",
    Reason.DAMAGED: "the decoder found invalid data",
    Reason.BAD_DIMENSIONS: "the picture's width or height is zero or over the limit",
    Reason.TOO_LARGE: "the file is larger than a shard member may be",
    Reason.TOO_LONG: "the video is longer than the limit",
    Reason.BAD_FRAMES: "the images of a folder, or the values of an array, do not make a video",
    Reason.DUPLICATE_ID: "another input already bears this id",
    Reason.BAD_ID: "the id is empty, holds control characters, or begins or ends with a space",
    Reason.TIMEOUT: "probing or decoding took longer than the limit",
    Reason.DECODER_DIED: "the process that read the file was killed by it",
    Reason.REMOVED: "the video was taken out of the shards on request",
    Reason.ENCODER_FAILED: "the encoder's output is not finite",
}


class ReelkinError(Exception):
    """A failure that a user can understand: the message names what, where, the value and the next action."""


class UsageError(ReelkinError, ValueError):
    """A flag or a field of a configuration cannot be used as given; the command exits with 2."""


class DataError(ReelkinError):
    """One sample is bad: it ends as a rejected row with ``reason``, and harms nothing else.

    Args:
        reason: member of the closed set.
        message: what was seen, with the value; the sample's id is added by whoever writes the row.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
