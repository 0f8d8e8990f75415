"""What every report page is made with: the template environment, pictures as data addresses, rows of settings.

Ids come from file names and are hostile text: the templates escape everything, and characters that a page would hide or
that would reorder a line are written out. Pictures are data addresses; a content policy forbids loading anything.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...search.text import shown

TEMPLATES = Path(__file__).parent
MAX_QUERY_ROWS = 500
"""Rows of the per-query table; the worst are kept, queries.csv has all."""
FRAMES_SHOWN = 4
FRAME_WIDTH = 160
"""Pixels; shown at about half of it, so that print and dense screens stay sharp."""

Strips = Callable[[str], Sequence[NDArray[np.uint8]]]
"""video id -> a few frames uint8 [H, W, 3]; none if the video cannot be shown."""


def render_page(template: str, **values: Any) -> str:
    """A page from one of the templates beside this file; an undefined value is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template(template).render(**values)


def picture(frame: NDArray[np.uint8]) -> str:
    """A frame as a JPEG data address, at most 160 pixels wide."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((FRAME_WIDTH, FRAME_WIDTH))
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def spread(frames: Sequence[NDArray[np.uint8]], count: int = FRAMES_SHOWN) -> list[NDArray[np.uint8]]:
    """``count`` frames spread evenly over those given, never one twice."""
    if len(frames) <= count:
        return list(frames)
    return [frames[int(index)] for index in (np.arange(count) + 0.5) * len(frames) / count]


def pictures(strips: Strips | None, video_id: str) -> list[str]:
    """A few frames of a video as data addresses; none without ``strips``."""
    return [] if strips is None else [picture(frame) for frame in spread(strips(video_id))]


def flat(prefix: str, values: Any) -> list[tuple[str, str]]:
    """Nested JSON values as (dotted name, text) rows."""
    if not isinstance(values, dict):
        values = dict(values)
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            rows += flat(f"{dotted}.", value)
        else:
            rows.append((dotted, value if isinstance(value, str) else json.dumps(value, default=str)))
    return rows
