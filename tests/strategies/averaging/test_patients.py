"""Training that protects each patient, in whole federations in this process."""

from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic.federation.run_folder import read_lines
from polyclinic.learning.private.accounting import epsilon
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic_client.patients.spent import Spent
from tests.core.simulation.small_hospitals import SMALL, write_hospitals

PRIVATE = ("privacy=patient_dp", "privacy.patients.epsilon=20")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("cohort"))


def events(result: SimulationResult, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(result.folder / "events.jsonl") if line["kind"] == kind]


@pytest.mark.parametrize("privacy", ["patient_dp", "patient_dp_secure_sum"])
def test_each_hospital_counts_what_it_tells_and_no_loss_leaves(
    sites: list[Path], privacy: str
) -> None:
    asked = (f"privacy={privacy}", "privacy.patients.epsilon=20")
    with simulate(sites, *SMALL, *asked, strategy="averaging/fedprox", rounds=2) as result:
        assert not result.faults
        answers = [each for each in events(result, "answered") if each["phase"] == "train"]
        assert len(answers) == 6 and all(each.get("loss") is None for each in answers)
        for site in ("north", "south", "west"):
            entries = Spent(result.folder.parent / "hospitals" / site).entries()
            assert [each.round for each in entries] == [1, 2]
            counted = epsilon([each.spent for each in entries], entries[0].delta)
            told = [each["epsilon"] for each in answers if each["site"] == site]
            assert told[-1] == pytest.approx(counted, abs=1e-9)
            assert told[0] < told[1] <= 20 * (1 + 1e-6) and told[1] > 19.99
        page = result.report(result.folder / "page.html").read_text(encoding="utf-8")
        table = page.partition('id="patients"')[2].partition("</table>")[0]
        assert table.count('<td class="num">20</td>') == 3
        notes = [each["text"] for each in events(result, "note")]
        assert any("north 20, south 20, west 20" in text for text in notes)


def test_what_protects_nobody_is_refused_before_anybody_is_asked(sites: list[Path]) -> None:
    for more, said in (
        (("strategy=averaging/local",), "shares nothing"),
        (("strategy=merging/mean",), "cannot train so"),
        (("strategy=refinement",), "cannot train so"),
        (("model=unet_batchnorm", "model.spatial_dims=2"), "running statistics"),
        (("training.shifts.feature=mixstyle",), r"shifts\.feature"),
    ):
        small = [each for each in SMALL if not (more[0].startswith("model=") and "model" in each)]
        with pytest.raises(ConfigError, match=said):
            simulate(sites, *small, *PRIVATE, *more, rounds=1)


def test_a_hospital_with_a_budget_takes_part_in_private_training_alone(
    sites: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("epsilon_budget: 15\n")
    monkeypatch.setenv("POLYCLINIC_POLICY", str(policy))
    with pytest.raises(PolyclinicError, match="has no differential privacy"):
        simulate(sites, *SMALL, strategy="averaging/fedavg", rounds=1)
    with pytest.raises(PolyclinicError, match="budget"):
        simulate(sites, *SMALL, *PRIVATE, strategy="averaging/fedavg", rounds=1)
