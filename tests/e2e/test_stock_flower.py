"""The same coordinator and hospitals on Flower's own SuperLink and SuperNodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from polyclinic.reporting.results import read_results
from tests.e2e.stock_flower import StockFederation

pytestmark = pytest.mark.e2e
PATIENCE_S = 900.0  # a stock SuperNode starts a process for each message


@pytest.fixture(params=["averaging/fedavg", "merging/mean"])
def finished(
    request: pytest.FixtureRequest, tmp_path: Path, sites: list[Path]
) -> Iterator[StockFederation]:
    one = StockFederation(tmp_path, sites[:2])
    try:
        one.start()
        one.run(
            f"strategy={request.param}", "rounds=1", "deployment.hospitals=2",
            *(["strategy.poll_s=1.0"] if "merging" in request.param else []),
            timeout_s=PATIENCE_S,
        )  # fmt: skip
        yield one
    finally:
        one.close()


def test_a_run_under_flwr_run_ends_with_a_model_and_figures(finished: StockFederation) -> None:
    described = finished.described()
    run = finished.folder / "runs" / "run"
    assert described["state"] == "finished", finished.said()
    assert len(described["hospitals"]) == 2
    (model,) = run.glob("arms/*/model.safetensors")
    assert load_file(model)
    results = read_results(run)
    assert results is not None
    assert (run / "report.html").exists()
