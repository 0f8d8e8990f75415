"""Where features come from: a feature store, or the HDF5 file of the published code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from numpy import floating
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...extract.exchange.hdf5_features import Hdf5Features
from ...extract.storage.rows import StoreRow
from ...extract.store import FeatureStore
from .findings import Finding, Findings


class FeatureSource(Protocol):
    """What embedding needs of a store."""

    video_ids: list[str]
    dim: int

    def features(self, video_id: str) -> NDArray[floating]:
        """Frame features [T, D]."""
        ...

    def num_frames(self, video_id: str) -> int:
        """T."""
        ...


class WindowSource(FeatureSource, Protocol):
    """What batches need: parts of long videos as well."""

    def features(self, video_id: str, begin: int = 0, end: int | None = None) -> NDArray[floating]:
        """Frame features [T, D], or those of the frames ``begin:end``."""
        ...


class OpenedFeatures(WindowSource, Protocol):
    """What `open_features` returns.

    Attributes:
        path: where it lies.
        info: ``encoder``, ``pca`` and so on, as store.json has them; what is not known is absent.
    """

    path: Path
    info: dict[str, Any]

    @property
    def rejects(self) -> list[StoreRow]:
        """Rows of the videos whose features cannot be used."""
        ...

    def __contains__(self, video_id: object) -> bool: ...

    def digest(self) -> str:
        """sha256 (hex) of what the features are."""
        ...


def open_features(path: str | Path, dim: int | None = None, flag: str = "--pca-components") -> OpenedFeatures:
    """Open a feature store (a folder) or an HDF5 file with a dataset [T, D] per video id.

    Args:
        path: what is opened.
        dim: length of a feature that is expected; None takes any.
        flag: which flag said so, for the message.

    Raises:
        ReelkinError: it is neither, not complete, or damaged.
        UsageError: it does not exist, h5py is missing, or the features have another length than ``dim``.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"the features {path} do not exist; give a feature store of extract/run.py, or an HDF5 file")
    source: OpenedFeatures = Hdf5Features(path) if path.is_file() else FeatureStore.open(path)
    if dim is not None and source.dim != dim:
        raise UsageError(f"{path} holds features of {source.dim} dimensions, and {flag} is {dim}; give {source.dim}")
    return source


def rejected(source: OpenedFeatures) -> tuple[Finding, ...]:
    """The videos of a source whose features cannot be used, by reason."""
    findings = Findings()
    for row in source.rejects:
        findings.add(f"videos of the features that cannot be used ({row.reason})", row.video_id)
    return findings.listed()
