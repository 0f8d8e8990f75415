"""Make the shipped annotations from the published originals, byte for byte the same each time.

    python -m reelkin.evaluate.published.convert --originals FOLDER --output FOLDER

Nothing is corrected here: what is wrong in an original stays, and is named when it is read. `files/SOURCES.md` says
where the originals are from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.config import command, parse
from ...core.errors import ExitCode, UsageError
from ...core.files import publish_bytes, sha256_file
from ...core.pickles import load_annotation_pickle
from ...shards.sources.annotation_files import numbered_lines, read_json
from .content import packed, plain


@dataclass(frozen=True)
class Original:
    """A published file that is shipped in another format; ``files/SOURCES.md`` says more."""

    name: str
    file: str
    origin: str
    licence: str
    sha256: str


ORIGINALS = (
    Original(
        "fivr_old",
        "fivr.pickle",
        "github.com/mever-team/distill-and-select datasets/fivr.pickle",
        "Apache-2.0",
        "dce327ab664dfaade878a3fb474f7a598141a513c484572f95629dcbf1c020f3",
    ),
    Original(
        "fivr_new",
        "fivr_annotation.json",
        "github.com/MKLab-ITI/FIVR-200K dataset/annotation.json",
        "Apache-2.0",
        "ccd343bd1c442142da3b2ef9e571ae888d44ac039fd02de708b0be820385a3ea",
    ),
    Original(
        "vcdb",
        "vcdb.pickle",
        "github.com/xwen99/temporal_context_aggregation datasets/vcdb.pickle",
        "Apache-2.0",
        "6cec73506f401c4dc6d0af2757b2927307cff1dcb6f1c5d9d6775e358fefe4bf",
    ),
    Original(
        "cc_web_video",
        "cc_web_video.pickle",
        "github.com/mever-team/distill-and-select datasets/cc_web_video.pickle",
        "Apache-2.0",
        "6c33932cfa6ed08eb02fb47189b38bcef124c07794e99adf5c04163dcf4c52fe",
    ),
    Original(
        "evve",
        "evve.pickle",
        "github.com/mever-team/distill-and-select datasets/evve.pickle",
        "Apache-2.0",
        "0898fafc817b9457be25cafeefa996d78d1021fb4816a9e3c1a14b7493023410",
    ),
    Original(
        "svd",
        "svd_test_groundtruth.txt",
        "github.com/mever-team/distill-and-select datasets/test_groundtruth",
        "Apache-2.0",
        "3bd4d69b2f22f718689bd0fde29be2342800227af1b82dca4c6a747e18f9d92d",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert published annotation files to the format that is shipped."""

    originals: Path
    """Folder with the originals, under the names that SOURCES.md gives them."""
    output: Path
    """Folder for the converted files."""


def convert(original: Original, folder: Path) -> bytes:
    """The shipped form of one original.

    Raises:
        UsageError: the file is not the one that is shipped (its sha256 differs), or is missing.
    """
    path = folder / original.file
    if not path.is_file():
        raise UsageError(f"--originals {folder} has no {original.file}")
    found = sha256_file(path)
    if found != original.sha256:
        raise UsageError(f"{path} has the sha256 {found}; expected {original.sha256}")
    facts = {
        "name": original.name,
        "origin": original.origin,
        "licence": original.licence,
        "original_sha256": original.sha256,
    }
    return packed(plain(_value(path)), facts)


def _value(path: Path) -> Any:
    if path.suffix == ".pickle":
        return load_annotation_pickle(path)
    if path.suffix == ".json":
        return read_json(path)
    return [line.split() for _, line in numbered_lines(path)]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Convert all originals."""
    example = "python -m reelkin.evaluate.published.convert --originals originals --output evaluate/published/files"
    config = parse(ConvertConfig, argv, prog="convert.py", example=example)
    for original in ORIGINALS:
        data = convert(original, config.originals)
        publish_bytes(config.output / f"{original.name}.json.xz", data)
        print(f"{original.name}.json.xz: {len(data):,} bytes")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
