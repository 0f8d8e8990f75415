"""PCA: against scikit-learn, in batches of any size, over ranks, and when there are too few frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as ReferencePCA

from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError
from reelkin.core.files import sha256_file
from reelkin.extract.pca import PCA, CovarianceSum, fit_pca


def make_samples(count: int = 400, dim: int = 24, offset: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(dim, dim)) * np.geomspace(2, 0.05, dim)[:, None]
    return rng.normal(size=(count, dim)) @ mixing + offset


def aligned(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return x * np.sign((x * reference).sum(axis=0))


@pytest.mark.parametrize("whiten", [True, False])
def test_projection_equals_scikit_learn_up_to_sign(whiten: bool) -> None:
    x = make_samples()
    reference = ReferencePCA(10, whiten=whiten, svd_solver="full").fit(x)
    pca = fit_pca(x, 10, whiten=whiten)
    expected = reference.transform(x)
    np.testing.assert_allclose(aligned(pca.project(x), expected), expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(pca.variances, reference.explained_variance_, rtol=1e-5)
    assert pca.info["num_samples"] == 400
    assert pca.info["variance_kept"] == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-5)


def test_whitened_training_data_has_unit_variance_and_no_correlation() -> None:
    x = make_samples()
    y = fit_pca(x, 12).project(x).astype(np.float64)
    np.testing.assert_allclose(np.cov(y.T), np.eye(12), atol=1e-3)


def test_applied_features_are_float32_of_norm_one_in_any_shape() -> None:
    x = make_samples()
    pca = fit_pca(x, 5)
    y = pca.apply(x.reshape(4, 100, 24))
    assert y.shape == (4, 100, 5) and y.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(pca.apply(torch.from_numpy(x)).numpy(), y.reshape(400, 5))
    np.testing.assert_array_equal(pca.apply(pca.mean.numpy()), np.zeros(5))  # no direction, and no NaN


def test_batches_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = make_samples(offset=1000.0)  # a mean far above the spread: a sum of squares would cancel
    whole = fit_pca(x, 8)
    monkeypatch.setattr(CovarianceSum, "BATCH", 16)
    pieces = fit_pca((piece for piece in np.split(x, [1, 3, 10, 200, 390])), 8)
    np.testing.assert_allclose(pieces.components, whole.components, atol=1e-5)
    np.testing.assert_allclose(pieces.variances, whole.variances, rtol=1e-6)
    np.testing.assert_allclose(whole.variances, ReferencePCA(8).fit(x).explained_variance_, rtol=1e-5)


class TwoRanks:
    """Stands for an engine: the other rank's tensors were recorded beforehand."""

    def __init__(self, other: dict[str, torch.Tensor]) -> None:
        self.other, self.sent = other, {}

    def all_reduce(self, tensor: torch.Tensor, name: str, op: str) -> torch.Tensor:
        assert op == "sum" and tensor.dtype == torch.float64
        self.sent[name] = tensor.clone()
        return tensor + self.other[name]


def test_shares_of_ranks_combine_to_the_whole() -> None:
    x = make_samples(offset=50.0)
    x[300:] += 5.0  # the shares have different means
    whole = CovarianceSum(24)
    whole.add(x)
    whole.flush()
    shares = []
    for part in (x[:300], x[300:]):
        share = CovarianceSum(24)
        share.add(part)
        share.flush()
        shares.append(share)
    packed = torch.cat([shares[1].mean * 100, torch.tensor([100.0, 0.0])])
    shift = shares[1].mean - whole.mean
    scatter = shares[1].scatter + 100 * torch.outer(shift, shift)
    shares[0].combine(TwoRanks({"PCA mean": packed, "PCA scatter": scatter}))  # type: ignore[arg-type]
    assert shares[0].count == 400
    torch.testing.assert_close(shares[0].mean, whole.mean)
    torch.testing.assert_close(shares[0].scatter, whole.scatter)


def test_one_rank_alone_combines_to_itself() -> None:
    x = make_samples()
    with start("single") as engine:
        together = fit_pca(x, 4, engine=engine)
    torch.testing.assert_close(together.components, fit_pca(x, 4).components)


def test_too_few_frames_name_the_largest_possible_number(tmp_path: Path) -> None:
    x = make_samples(count=10)
    with pytest.raises(ReelkinError, match=r"10 frames of dimension 24 vary in 9 directions\. Pass --components 9 or"):
        fit_pca(x, 10)
    y = fit_pca(x, 9).project(x)
    np.testing.assert_allclose(y.var(axis=0, ddof=1), 1, atol=1e-3)


def test_few_frames_of_many_dimensions_equal_scikit_learn() -> None:
    """Fewer samples than half the dimensions are solved in their own range, over five decades of variance."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 29)) * np.geomspace(1, 3e-3, 29) @ np.linalg.qr(rng.normal(size=(400, 29)))[0].T
    reference = ReferencePCA(28, whiten=True, svd_solver="full").fit(x)
    pca = fit_pca(x, 28)
    expected = reference.transform(x)
    np.testing.assert_allclose(pca.variances, reference.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(aligned(pca.project(x), expected), expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(28), atol=1e-5)


def test_frames_in_a_subspace_count_their_directions() -> None:
    x = make_samples()[:, :6] @ np.random.default_rng(2).normal(size=(6, 24))
    with pytest.raises(ReelkinError, match="vary in 6 directions"):
        fit_pca(x, 7)
    fit_pca(x, 6)


@pytest.mark.parametrize("samples", [np.ones((1, 4)), []])
def test_no_frames_are_an_error(samples: object) -> None:
    with pytest.raises(ReelkinError, match="a PCA needs"):
        fit_pca(samples, 1)  # type: ignore[arg-type]


def test_frames_that_are_not_finite_are_left_out_and_counted() -> None:
    x = make_samples()
    clean = fit_pca(np.delete(x, [3, 7, 399], axis=0), 5)
    x[3, 3], x[7, :], x[399, 0] = np.nan, np.inf, -np.inf
    pca = fit_pca(x, 5)
    torch.testing.assert_close(pca.components, clean.components)
    assert pca.info["num_samples"] == 397 and pca.info["frames_left_out"] == 3
    assert "frames_left_out" not in clean.info
    with pytest.raises(ReelkinError, match=r"at least 2 frames, not 0 \(4 were not finite\)"):
        fit_pca(np.full((4, 3), np.nan), 1)


def test_frames_without_a_difference_are_named() -> None:
    with pytest.raises(ReelkinError, match="all 50 frames have the same features"):
        fit_pca(np.full((50, 24), 7.25), 1)


def test_whitening_divides_by_the_standard_deviation_which_faiss_leaves_out() -> None:
    """faiss scales by the root of the sum of squares: its outputs are smaller by the root of n - 1."""
    faiss = pytest.importorskip("faiss")
    x = make_samples().astype(np.float32)
    reference = faiss.PCAMatrix(24, 8, -0.5)
    reference.train(x)
    y = fit_pca(x, 8).project(x)
    expected = reference.apply(x) * np.sqrt(len(x) - 1)
    np.testing.assert_allclose(aligned(y, expected), expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(y.var(axis=0, ddof=1), 1, atol=1e-3)
    assert reference.apply(x).var() < 0.01
    sklearn = ReferencePCA(8, whiten=True, svd_solver="full").fit_transform(x)
    np.testing.assert_allclose(aligned(y, sklearn), sklearn, atol=2e-3 * np.abs(sklearn).max())


def test_dimensions_beyond_a_block_of_the_product_are_exact() -> None:
    """Only the upper triangle is computed, in blocks of columns; 700 dimensions take several."""
    x = np.random.default_rng(4).normal(size=(1000, 700)) @ np.random.default_rng(5).normal(size=(700, 700)) + 9
    total = CovarianceSum(700)
    for part in np.array_split(x, 7):
        total.add(part)
    total.flush()
    expected = np.cov(x.T) * 999
    np.testing.assert_allclose(total.scatter, expected, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_allclose(total.mean, x.mean(axis=0), atol=1e-10)


def test_a_caller_may_use_its_array_again() -> None:
    x = make_samples()
    total, buffer = CovarianceSum(24), np.empty((100, 24))
    for part in np.split(x, 4):
        buffer[:] = part
        total.add(buffer)
    total.flush()
    np.testing.assert_allclose(total.mean, x.mean(axis=0))


def test_saved_and_loaded_it_is_the_same_file_and_the_same_projection(tmp_path: Path) -> None:
    x = make_samples()
    pca = fit_pca(x, 6, info={"encoder": {"name": "test"}, "seed": 0, "more": [1, 2]})
    for name in ("a", "b"):
        pca.save(tmp_path / name)
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")
    again = PCA.load(tmp_path / "a")
    np.testing.assert_array_equal(again.apply(x), pca.apply(x))
    assert again.info == pca.info and again.whiten


def test_a_foreign_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReelkinError, match="cannot be read"):
        PCA.load(tmp_path / "missing")
    (tmp_path / "noise").write_bytes(b"x" * 100)
    with pytest.raises(ReelkinError, match="cannot be read"):
        PCA.load(tmp_path / "noise")
    import safetensors.numpy

    safetensors.numpy.save_file({"mean": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(ReelkinError, match="is no reelkin-pca 1 file"):
        PCA.load(tmp_path / "other")


def test_features_of_another_length_are_refused() -> None:
    pca = fit_pca(make_samples(), 3)
    with pytest.raises(ValueError, match="have 5 dimensions, this PCA takes 24"):
        pca.apply(np.ones((2, 5)))
