"""Ids and paths as a person should see them, on a page or on a terminal."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def shown(text: object) -> str:
    """Text with control, format (right-to-left overrides too) and unpaired characters written as escapes.

    File names come from strangers: raw, they could reorder a line, hide characters, or send codes to a terminal.
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _HIDDEN else character
        for character in str(text)
    )
