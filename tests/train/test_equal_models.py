"""Under the real launchers: ranks with a share of the videos train every aggregator as one rank does with them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reelkin.train.models.aggregators import AGGREGATORS

from .conftest import Launch

WORKER = Path(__file__).parent / "workers" / "equal_models.py"


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "ranks"), [("torch", 2), ("torch", 4), ("horovod", 2)])
def test_ranks_train_every_aggregator_like_one_rank(tmp_path: Path, launch: Launch, backend: str, ranks: int) -> None:
    for kind in ("single", backend):
        finished = launch(kind, WORKER, tmp_path / f"{kind}.pt", ranks=ranks)
        assert finished.returncode == 0, finished.output[-4000:]
    one, many = (torch.load(tmp_path / f"{kind}.pt", weights_only=True) for kind in ("single", backend))
    assert set(one) == set(many) == set(AGGREGATORS) - {"mean"}
    for name, expected in one.items():
        assert expected.keys() == many[name].keys()
        assert max(float(value.abs().max()) for key, value in expected.items() if key.startswith("0 ")) > 1e-3
        for key, value in expected.items():
            torch.testing.assert_close(
                many[name][key], value, rtol=1e-9, atol=1e-12, msg=lambda text, at=f"{name} {key}": f"{at}: {text}"
            )
