"""Under the real launchers: the number of ranks changes neither losses nor gradients, whatever the objective."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from .conftest import Data, Launch, write_csv

WORKER = Path(__file__).parent / "workers" / "equal_ranks.py"

Seen = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def labels(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of 11 of the 16 scenes, so that there is a background."""
    with open(data.copies, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    kept = [tuple(row) for row in rows if row[1] < "s11"]
    assert 0 < len(kept) < len(rows)
    return write_csv(tmp_path_factory.mktemp("labels") / "edits.csv", tuple(header), *kept)


@pytest.fixture(scope="module")
def one_rank(data: Data, labels: Path, tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> Seen:
    folder = tmp_path_factory.mktemp("one")
    finished = launch("single", WORKER, data.store, labels, folder, "0.0,0.9", timeout=300)
    assert finished.returncode == 0, finished.output[-4000:]
    return dict(torch.load(folder / "seen.pt", weights_only=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "ranks", "momenta"),
    [("torch", 2, "0.0,0.9"), ("torch", 4, "0.0,0.9"), ("horovod", 2, "0.0,0.9"), ("horovod", 4, "0.9")],
)
def test_ranks_give_the_losses_and_gradients_of_one_rank(
    data: Data, labels: Path, one_rank: Seen, tmp_path: Path, launch: Launch, backend: str, ranks: int, momenta: str
) -> None:
    finished = launch(backend, WORKER, data.store, labels, tmp_path, momenta, ranks=ranks, timeout=500)
    assert finished.returncode == 0, finished.output[-4000:]
    many: Seen = torch.load(tmp_path / "seen.pt", weights_only=True)
    # 5 losses with 4 minings and each key encoder, and 4 more; circle-legacy with as many first rows as ranks.
    encoders = len(momenta.split(","))
    assert len(many) == 20 * encoders + 4 and sum(f"as {ranks} ranks" in case for case in many) == 4 * encoders
    for case, found in many.items():
        expected = one_rank[case]
        assert found.keys() == expected.keys() and len(found) > 30, case
        assert torch.equal(found["videos"], expected["videos"]), case
        for name, value in expected.items():
            # Dropout is on, slices are unequal (11 anchors), the queue wraps at every step: all of it must agree.
            torch.testing.assert_close(
                found[name], value, rtol=1e-7, atol=1e-10, msg=lambda text, at=f"{case}: {name}": f"{at}: {text}"
            )
        largest = max(float(value.abs().max()) for name, value in expected.items() if name.startswith("gradient"))
        assert largest > 1e-4, f"{case}: a gradient of nothing proves nothing"


@pytest.mark.slow
def test_the_published_circle_loss_depends_on_the_number_of_ranks(one_rank: Seen) -> None:
    # By design: each process has a first row of its own. The test above shows it to be that of each rank's share.
    for mining in ("none", "topk", "semi-hard", "distance-weighted"):
        one, two, four = (one_rank[f"circle-legacy, {mining}, 0.9, as {ranks} ranks"] for ranks in (1, 2, 4))
        for other in (two, four):
            assert not torch.allclose(one["logged loss"], other["logged loss"], rtol=1e-3)
