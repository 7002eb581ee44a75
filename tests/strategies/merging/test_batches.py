"""Merging by secure sums, in whole federations in this process."""

from pathlib import Path

import pytest
import torch

from polyclinic.errors import ConfigError, InsideBatch
from polyclinic.learning.state_dict import StateDict
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic.store.ledger import Ledger
from tests.core.simulation.small_hospitals import SMALL, write_hospitals

MERGING = ("strategy=merging/mean", "rounds=1")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("cohort"))


def published(result: SimulationResult) -> StateDict:
    with Ledger.open(result.folder / "ledger", create=False) as ledger:
        return ledger.load_model(ledger.publications()[-1].digest)


def test_a_batch_is_one_entry_that_names_its_members_and_leaves_as_a_whole(
    sites: list[Path], tmp_path: Path
) -> None:
    masked = simulate(sites, *SMALL, *MERGING, "privacy=secure_sum", folder=tmp_path / "masked")
    assert not masked.faults
    with simulate(sites, *SMALL, *MERGING, "privacy=quantized_sum") as clear:
        same = published(clear)
    with simulate(sites, *SMALL, *MERGING) as plain:
        exact = published(plain)
    found = published(masked)
    for name, tensor in found.items():
        assert torch.equal(tensor, same[name])
        assert torch.allclose(tensor, exact[name], atol=1e-6)
    with Ledger.open(masked.folder / "ledger", create=False) as ledger:
        (entry,), (batch,) = ledger.entries(), ledger.batches()
        assert (entry.site, entry.digest, entry.num_examples) == (batch.name, batch.digest, 3)
        assert set(batch.members) == {"north", "south", "west"}
        assert ledger.verify() is None
        with pytest.raises(InsideBatch, match="nobody can take it out"):
            ledger.withdraw("north", "consent")
        ledger.withdraw("batch:1", "consent")
        assert not ledger.active()
    assert masked.report(tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("strategy=merging/krum", "Krum"),
        ("strategy=merging/regmean", "RegMean"),
        ("strategy.controls=true", "controls"),
        ("strategy.statistics=[gram]", "single hospitals"),
        ("strategy.max_staleness=1", "by their age"),
        ("strategy.start=newest", "the model it started from"),
        ("privacy.sums.least_hospitals=2", "At least 3"),
    ],
)
def test_what_needs_single_contributions_is_refused(sites: list[Path], more: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        simulate(sites, *SMALL, *MERGING, "privacy=secure_sum", more)
