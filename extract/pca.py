"""PCA with whitening, fitted exactly on any number of frames and over any number of ranks.

The covariance is accumulated in float64, batch by batch, around a running mean (Chan, Golub and LeVeque, "Updating
formulae and a pairwise algorithm for computing sample variances", 1982), so that nothing cancels; ranks accumulate on
their own and are combined at the end. The eigenvectors are those of the exact sample covariance (divided by n - 1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..core.engine import Engine
from ..core.errors import ReelkinError
from ..core.files import publishing

FORMAT, VERSION = "reelkin-pca", 1

VARIANCE_FLOOR = 1e-9
"""Smallest variance that whitening divides by, as in the published TCA code."""

RANK_TOLERANCE = 1e-12
"""A direction counts as empty when its variance is below this fraction of the largest (float64 rounding)."""


@dataclass(frozen=True)
class PCA:
    """A fitted projection of frame features.

    Attributes:
        mean: float32 [D].
        components: float32 [K, D], orthonormal rows by falling variance; each row's largest entry in magnitude is
            positive.
        variances: float32 [K], of the training data along the components.
        whiten: divide each coordinate by its standard deviation, so that all have variance 1 on the training data.
        info: JSON values: number of samples, share of the variance kept, and what the features were made with.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    whiten: bool = True
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Length K of a projected feature."""
        return len(self.components)

    @property
    def input_dim(self) -> int:
        """Length D of the features it takes."""
        return self.components.shape[1]

    @overload
    def project(self, x: Tensor) -> Tensor: ...
    @overload
    def project(self, x: np.ndarray) -> np.ndarray: ...
    def project(self, x: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """[..., D] real -> [..., K] float32: centred, projected and (with ``whiten``) scaled, not normalised.

        Raises:
            ValueError: another length than D.
        """
        if x.shape[-1] != self.input_dim:
            raise ValueError(f"features have {x.shape[-1]} dimensions, this PCA takes {self.input_dim}")
        if isinstance(x, np.ndarray):
            return self.project(torch.from_numpy(np.array(x, np.float32))).numpy()
        y = (x.float() - self.mean.to(x.device)) @ self.components.to(x.device).T
        if self.whiten:
            y = y / self.variances.clamp(min=VARIANCE_FLOOR).sqrt().to(x.device)
        return y

    @overload
    def apply(self, x: Tensor) -> Tensor: ...
    @overload
    def apply(self, x: np.ndarray) -> np.ndarray: ...
    def apply(self, x: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """[..., D] real -> [..., K] float32 with norm 1: `project`, then L2-normalised.

        A feature equal to the mean stays all zeros. Arrays give arrays, tensors give tensors on their device.
        """
        if isinstance(x, np.ndarray):
            return self.apply(torch.from_numpy(np.array(x, np.float32))).numpy()
        return torch.nn.functional.normalize(self.project(x), dim=-1)

    def to(self, device: torch.device) -> PCA:
        """The same projection with its tensors on ``device``."""
        mean, components, variances = self.mean.to(device), self.components.to(device), self.variances.to(device)
        return PCA(mean, components, variances, self.whiten, self.info)

    def save(self, path: str | Path) -> None:
        """Publish as safetensors with JSON metadata; the same PCA gives the same bytes."""
        tensors = {"mean": self.mean, "components": self.components, "variances": self.variances}
        # One entry: with more, safetensors' order of the metadata, and so the file's hash, changes from run to run.
        meta = {"format": FORMAT, "version": VERSION, "whiten": self.whiten, "info": self.info}
        with publishing(path) as temporary:
            safetensors.torch.save_file(
                {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                {"reelkin": json.dumps(meta, sort_keys=True)},
            )

    @classmethod
    def load(cls, path: str | Path) -> PCA:
        """Read what `save` wrote.

        Raises:
            ReelkinError: the file is missing, damaged, or no PCA of this version.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {}).get("reelkin", "{}"))
                if (meta.get("format"), meta.get("version")) != (FORMAT, VERSION):
                    raise ReelkinError(f"{path} is no {FORMAT} {VERSION} file; make one with extract/fit_pca.py")
                mean, components, variances = (file.get_tensor(name) for name in ("mean", "components", "variances"))
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ReelkinError(
                f"the PCA file {path} cannot be read ({error}); make it again with extract/fit_pca.py"
            ) from error
        return cls(mean, components, variances, meta["whiten"], meta["info"])


class CovarianceSum:
    """Mean and scatter of any number of samples, in float64, in O(D^2) memory.

    Attributes:
        count: samples seen.
        left_out: samples that held a value that is not finite, and do not count.
        mean: float64 [D].
    """

    BATCH = 2048

    def __init__(self, dim: int) -> None:
        self.count = self.left_out = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        # Right on and above the diagonal only: the scatter is symmetric, and this is about half the work.
        self._upper = torch.zeros((dim, dim), dtype=torch.float64)
        self._pending: list[Tensor] = []
        self._held = 0

    @property
    def scatter(self) -> Tensor:
        """float64 [D, D], the sum of (x - mean)(x - mean)^T over the samples worked in so far."""
        return self._upper.triu() + self._upper.triu(1).T

    def add(self, x: np.ndarray | Tensor) -> None:
        """Add samples [N, D], real; those with a value that is not finite are left out and counted.

        Raises:
            ValueError: another length than D.
        """
        batch = torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x.detach().cpu().clone()
        if batch.ndim != 2 or batch.shape[1] != len(self.mean):
            raise ValueError(f"samples have shape {tuple(batch.shape)}; expected [N, {len(self.mean)}]")
        self._pending.append(batch)
        self._held += len(batch)
        if self._held >= self.BATCH:  # one large product is several times faster than many thin ones
            self.flush()

    def flush(self) -> None:
        """Work in the samples that `add` still holds back."""
        if not self._held:
            return
        batch = torch.cat([part.double() for part in self._pending])
        self._pending, self._held = [], 0
        finite = torch.isfinite(batch).all(dim=1)
        if not finite.all():
            self.left_out += int((~finite).sum())
            batch = batch[finite]
            if not len(batch):
                return
        mean = batch.mean(dim=0)
        batch -= mean
        total = self.count + len(batch)
        shift = mean - self.mean
        step = max(256, -(-len(mean) // 8))
        for first in range(0, len(mean), step):
            self._upper[first : first + step, first:].addmm_(batch[:, first : first + step].T, batch[:, first:])
        self._upper.addr_(shift, shift, alpha=self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        self.count = total

    def combine(self, engine: Engine) -> None:
        """Replace this rank's sums by those over all ranks; every rank calls it, also one without samples, and has the
        same afterwards."""
        self.flush()
        counts = torch.tensor([self.count, self.left_out], dtype=torch.float64)
        packed = engine.all_reduce(torch.cat([self.mean * self.count, counts]), "PCA mean", op="sum")
        total, left_out = int(packed[-2]), int(packed[-1])
        mean = packed[:-2] / max(total, 1)
        shift = self.mean - mean
        self._upper.addr_(shift, shift, alpha=self.count)
        self._upper = engine.all_reduce(self._upper, "PCA scatter", op="sum")
        self.count, self.left_out, self.mean = total, left_out, mean

    def solve(self, num_components: int, *, whiten: bool = True, info: dict[str, Any] | None = None) -> PCA:
        """The leading components of what was added.

        Args:
            num_components: K; 1 to the number of directions in which the samples vary.
            info: recorded in the file, beside the counts.

        Raises:
            ReelkinError: the samples vary in fewer than K directions; the message names the numbers and the fix.
        """
        self.flush()
        dim = len(self.mean)
        if self.count < 2:
            left_out = f" ({self.left_out} were not finite)" if self.left_out else ""
            raise ReelkinError(f"a PCA needs at least 2 frames, not {self.count}{left_out}; give more videos")
        values, vectors = _eigenpairs(self.scatter / (self.count - 1), self.count - 1)
        # equal frames differ from their mean by its rounding
        noise = RANK_TOLERANCE * max(float(values[0]), float(self.mean.square().sum()) * RANK_TOLERANCE)
        possible = int((values > noise).sum())
        # n samples span at most n - 1 directions around their mean; rounding can make one more look alive
        possible = min(possible, self.count - 1)
        if not possible:
            raise ReelkinError(f"all {self.count} frames have the same features; a PCA needs frames that differ")
        if not 1 <= num_components <= possible:
            raise ReelkinError(
                f"the PCA cannot have {num_components} components: {self.count} frames of dimension {dim} vary in "
                f"{possible} directions. Pass --components {possible} or fewer, or fit on more frames "
                "(more videos, or a larger --frames-per-video)"
            )
        components = vectors[:, :num_components].T
        largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
        components = components * largest.sign()  # eigenvectors have no sign of their own
        record = {
            "num_samples": self.count,
            "variance_kept": round(float(values[:num_components].sum() / values.sum()), 6),
            **({"frames_left_out": self.left_out} if self.left_out else {}),
            **(info or {}),
        }
        return PCA(self.mean.float(), components.float().contiguous(), values[:num_components].float(), whiten, record)


def _eigenpairs(covariance: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues [r], falling, and eigenvectors [D, r] of a covariance [D, D] whose rank is at most ``most``."""
    dim = len(covariance)
    basis = None
    if 2 * (most + 16) < dim:
        # Few samples: the matrix times random vectors spans its whole range (not an approximation: the rank is known),
        # and the problem shrinks to that range. Twice, so that weak directions are as exact as strong ones.
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn((dim, most + 16), generator=generator, dtype=covariance.dtype)
        for _ in range(2):
            basis = torch.linalg.qr(covariance @ basis).Q
        covariance = basis.T @ covariance @ basis
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    return values, vectors if basis is None else basis @ vectors


def fit_pca(
    samples: np.ndarray | Tensor | Iterable[np.ndarray | Tensor],
    num_components: int,
    *,
    whiten: bool = True,
    engine: Engine | None = None,
    info: dict[str, Any] | None = None,
) -> PCA:
    """Fit a PCA.

    Args:
        samples: one [N, D] array, or an iterable of such batches that is read once.
        num_components: K.
        whiten: see `PCA`.
        engine: with several ranks each passes its own share, which may be empty, and all get the same PCA.
        info: recorded in the PCA.

    Raises:
        ReelkinError: no samples, or fewer directions than components (see `CovarianceSum.solve`).
    """
    total: CovarianceSum | None = None
    for batch in [samples] if isinstance(samples, (np.ndarray, Tensor)) else samples:
        total = total or CovarianceSum(batch.shape[1])
        total.add(batch)
    if engine is not None:
        dims = engine.all_gather_object(None if total is None else len(total.mean), "PCA dimensions")
        total = total or next((CovarianceSum(dim) for dim in dims if dim), None)
    if total is None:
        raise ReelkinError("a PCA needs frames, and none was given")
    if engine is not None:
        total.combine(engine)
    return total.solve(num_components, whiten=whiten, info=info)
