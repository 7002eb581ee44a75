"""Merging with real processes: contributions at any time, exactly once, whatever is killed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import polyclinic
from polyclinic.store.ledger import Ledger
from tests.e2e.federation import TINY, Federation
from tests.processes import run_cli

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]
SETTINGS = (
    "strategy=merging/mean",
    "strategy.poll_s=0.5",
    "rounds=40",
    "deployment.hospitals=2",
    "deployment.min_hospitals=1",
)


def published(one: Federation) -> str:
    """Return the newest model of a run whose ledger is whole and counts nobody twice."""
    with Ledger.open(one.runs / "run" / "ledger", create=False) as ledger:
        assert ledger.verify() is None
        assert sorted(entry.site for entry in ledger.entries()) == sorted(one.sites)
        return ledger.publications()[-1].digest


@pytest.fixture
def federation(tmp_path: Path, sites: list[Path]) -> Iterator[Make]:
    made: list[Federation] = []

    def make(*settings: str) -> Federation:
        made.append(Federation(tmp_path, sites[:2], *SETTINGS, *settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> Federation:
    """Two hospitals at once, nothing goes wrong."""
    one = Federation(tmp_path_factory.mktemp("calm"), sites[:2], *SETTINGS)
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name)
        assert one.wait() == 0, one.coordinator.log.read_text()
    finally:
        one.close()
    return one


def test_a_contribution_per_hospital_a_model_and_a_table(calm: Federation) -> None:
    assert {event["site"] for event in calm.events("contribution")} == set(calm.sites)
    assert {line["site"] for line in calm.metrics() if line["phase"] == "test"} == set(calm.sites)
    assert published(calm)
    scored = {
        (line["round"], line["site"]) for line in calm.metrics() if line["phase"] == "validate"
    }
    assert {site for number, site in scored if number == 2} == set(calm.sites)
    assert (calm.runs / "run" / "report.html").exists()


def test_a_simulation_publishes_the_same_model(
    calm: Federation, sites: list[Path], tmp_path: Path
) -> None:
    result = polyclinic.simulate(sites[:2], *TINY, *SETTINGS, folder=tmp_path, progress=False)
    with Ledger.open(result.folder / "ledger", create=False) as ledger:
        assert ledger.publications()[-1].digest == published(calm)


def test_whatever_is_killed_and_whoever_comes_late_the_model_is_the_same(
    calm: Federation, federation: Make
) -> None:
    one = federation()
    first, late = one.sites
    one.coordinator.start()
    one.join(first)
    one.freeze_in_training(first)
    one.kill_all(first)
    one.join(first)
    one.wait_until(lambda: one.events("contribution"), "a contribution")
    one.kill_all()
    one.settings = [text for text in one.settings if text.startswith("deployment")]
    one.coordinator = one.make_coordinator("--resume", "run")
    one.coordinator.start()
    one.join(late)
    assert one.wait() == 0, one.coordinator.log.read_text()
    assert one.events("resumed")
    assert published(one) == published(calm)


def test_in_turn_the_second_starts_from_what_the_first_made_though_all_are_killed(
    federation: Make,
) -> None:
    one = federation("strategy.start=in_turn")
    one.coordinator.start()
    for name in one.sites:
        one.join(name)
    one.wait_until(lambda: one.events("contribution"), "a contribution")
    (first,) = {event["site"] for event in one.events("contribution")}
    (second,) = set(one.sites) - {first}
    one.freeze_in_training(second)
    one.kill_all()
    one.kill_all(second)
    one.settings = [text for text in one.settings if text.startswith("deployment")]
    one.coordinator = one.make_coordinator("--resume", "run")
    one.coordinator.start()
    one.join(second)
    assert one.wait() == 0, one.coordinator.log.read_text()
    published(one)
    with Ledger.open(one.runs / "run" / "ledger", create=False) as ledger:
        starts = {entry.site: entry.base for entry in ledger.entries()}
        assert starts == {first: ledger.bases()[0], second: ledger.publications()[0].digest}
    assert {event["site"]: event["start"] for event in one.events("contribution")} == {
        first: 0, second: 1,
    }  # fmt: skip


def test_a_hospital_contributes_by_hand_and_anybody_merges_offline(
    calm: Federation, federation: Make, tmp_path: Path
) -> None:
    one = federation("strategy.end.contributions=1")
    name = next(iter(one.sites))
    one.coordinator.start()
    done = run_cli(
        "polyclinic_client.cli.main", "contribute", "--kit", str(one.enrol(name)),
        "--data", str(one.sites[name]), "--state", str(one.folder / "state" / name),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "for good" in done.stderr
    assert {event["site"] for event in one.events("contribution")} == {name}
    target = tmp_path / "ties.safetensors"
    merged = run_cli(
        "polyclinic_server.cli.main",
        "merge",
        "--rule",
        "ties",
        "keep=0.5",
        "--ledger",
        str(calm.runs / "run" / "ledger"),
        "--to",
        str(target),
    )
    assert merged.returncode == 0, merged.stderr
    assert "Ties(keep=0.5" in merged.stdout and "of 2 contributions" in merged.stdout
    assert (
        load_file(target).keys()
        == load_file(calm.runs / "run" / "arms" / "merging-mean" / "model.safetensors").keys()
    )
