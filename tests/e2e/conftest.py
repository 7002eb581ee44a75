"""One tiny cohort, and one undisturbed run of it that disturbed ones are compared with."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from tests.e2e.federation import Federation

ROUNDS = "rounds=3"


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    coarse = [replace(scanner, voxel_mm=(5.0, 5.0, 6.0)) for scanner in HOSPITALS[:3]]
    return write_cohort(
        tmp_path_factory.mktemp("cohort"), sites=3, subjects=(2, 1, 1), seed=7, scanners=coarse
    )


@pytest.fixture
def federation(tmp_path: Path, sites: list[Path]) -> Iterator[Callable[..., Federation]]:
    made: list[Federation] = []

    def make(*settings: str) -> Federation:
        made.append(Federation(tmp_path, sites, *settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> Federation:
    """Three hospitals, FedBN for three rounds, nothing goes wrong."""
    one = Federation(
        tmp_path_factory.mktemp("undisturbed"),
        sites,
        "strategy=averaging/fedbn",
        ROUNDS,
        "deployment.hospitals=3",
    )
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name)
        assert one.wait() == 0, one.coordinator.log.read_text()
    finally:
        one.close()
    return one


@pytest.fixture(scope="module", autouse=True)
def in_a_nursery(nursed: None) -> None:
    """Fork all processes of these tests from one that has imported what they need."""
