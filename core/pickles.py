"""Public annotation files come as pickles; they are read by an unpickler that can build sets and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from .errors import ReelkinError


class _SetsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("builtins", "set"), ("__builtin__", "set")}:
            return set
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_annotation_pickle(path: str | Path) -> Any:
    """Read a pickle of dicts, lists, sets, strings and numbers (FIVR, VCDB, CC_WEB_VIDEO, EVVE annotations).

    Raises:
        ReelkinError: the file is missing, damaged, or asks for anything but a set: nothing of it is run.
    """
    try:
        with open(path, "rb") as file:
            return _SetsOnly(file).load()
    except OSError as error:
        raise ReelkinError(f"cannot read the annotation {path}: {error.strerror}") from error
    except Exception as error:  # a hostile or cut pickle can raise nearly anything; none of it ran
        raise ReelkinError(
            f"{path} was refused as an annotation ({error}); only dicts, lists, sets, strings and numbers are read"
        ) from error
