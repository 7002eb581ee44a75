"""What a simulated run gives back."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from polyclinic.errors import ConfigError, UnknownName
from polyclinic.learning.model_file import load_model
from polyclinic.simulation import result as results
from polyclinic.simulation.result import Rows, SimulationResult
from polyclinic.simulation.run import simulate
from tests.core.simulation.small_hospitals import SMALL, write_hospitals


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulationResult]:
    sites = write_hospitals(tmp_path_factory.mktemp("cohort"), "north", "south")
    with simulate(sites, *SMALL, strategy="averaging/local,averaging/fedavg", rounds=1) as made:
        yield made


def test_the_table_has_a_row_for_each_hospital_and_one_for_the_mean(
    result: SimulationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "find_spec", lambda _name: None)  # as without pandas
    rows = result.table()
    assert [row["hospital"] for row in rows] == ["north", "south", "mean"]
    fedavg = result.scores["fedavg"]
    assert rows[0]["FedAvg"] == fedavg["north"]
    assert rows[2]["FedAvg"] == pytest.approx((fedavg["north"] + fedavg["south"]) / 2)
    lines = str(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1


def test_with_pandas_the_table_is_a_data_frame(result: SimulationResult) -> None:
    pytest.importorskip("pandas")
    frame = result.table("grey matter")
    assert list(frame.index) == ["north", "south", "mean"]
    assert list(frame.columns) == ["local only", "FedAvg"]
    assert importlib.util.find_spec("pandas") is not None
    with pytest.raises(UnknownName):
        result.table("bone")


def test_an_empty_table_can_be_printed() -> None:
    assert str(Rows()) == ""
    assert "0.500" in str(Rows([{"hospital": "a", "x": 0.5}, {"hospital": "b", "x": None}]))


def test_the_report_is_written_with_pictures(result: SimulationResult, tmp_path: Path) -> None:
    path = result.report(tmp_path / "new" / "report.html")
    assert path.is_file()
    assert (
        path.read_text().count("data:image/png") >= 2 * 4
    )  # image, truth, a map for each strategy
    assert result.report() == result.folder / "report.html"


def test_shared_and_own_models_are_loaded(result: SimulationResult) -> None:
    shared, job = load_model(result.model_file("fedavg"))
    network = result.model("fedavg")
    assert not network.training
    assert all(
        torch.equal(one, other)
        for one, other in zip(shared.parameters(), network.parameters(), strict=True)
    )
    north, south = result.model("local", "north"), result.model("local", "south")
    assert not torch.equal(next(north.parameters()), next(south.parameters()))
    assert network(torch.zeros(1, 1, *job.data.patch)).shape == (1, 4, *job.data.patch)


def test_a_model_that_does_not_exist_is_named(result: SimulationResult) -> None:
    with pytest.raises(UnknownName):
        result.model("fedprox")
    with pytest.raises(UnknownName):
        result.model("local", "nobody")
    with pytest.raises(ConfigError, match="hospital"):
        result.model("local")


def test_the_result_shows_its_means(result: SimulationResult) -> None:
    assert "fedavg=0." in repr(result)
