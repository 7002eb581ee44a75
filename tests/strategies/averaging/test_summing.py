"""Rounds under secure sums, in whole federations in this process."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic.federation.run_folder import read_lines
from polyclinic.learning.state_dict import load_state
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from tests.core.simulation.small_hospitals import SMALL, write_hospitals


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("cohort"))


def weights(result: SimulationResult, strategy: str) -> dict[str, torch.Tensor]:
    return load_state(result.folder / "arms" / strategy / "model.safetensors")[0]


def notes(result: SimulationResult) -> list[str]:
    lines: list[dict[str, Any]] = list(read_lines(result.folder / "events.jsonl"))
    return [line["text"] for line in lines if line["kind"] == "note"]


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam"])
def test_masks_change_no_bit_of_the_model(sites: list[Path], strategy: str) -> None:
    asked = {"strategy": f"averaging/{strategy}", "rounds": 1}
    with (
        simulate(sites, *SMALL, "privacy=secure_sum", **asked) as masked,
        simulate(sites, *SMALL, "privacy=quantized_sum", **asked) as clear,
    ):
        assert not masked.faults
        found, same = (weights(each, strategy) for each in (masked, clear))
        assert all(torch.equal(tensor, same[name]) for name, tensor in found.items())
        assert masked.scores == clear.scores
        state = masked.folder.parent / "hospitals" / "north"
        assert set(json.loads((state / "partners.json").read_text())["keys"]) == {"south", "west"}
        if strategy == "fedavg":
            with simulate(sites, *SMALL, **asked) as plain:
                check_distance(found, weights(plain, strategy), notes(masked))


def check_distance(
    found: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor], told: list[str]
) -> None:
    """Compare the distance to the float average with the bound that the run tells."""
    squares = sum(float((found[name] - exact[name]).double().square().sum()) for name in found)
    (bound,) = [float(text.split()[5]) for text in told if text.startswith("the sum")]
    rounding = 1e-7 * sum(each.numel() for each in found.values()) ** 0.5  # of float32 itself
    assert 0 < math.sqrt(squares) <= bound + rounding


def test_what_needs_single_updates_is_refused_before_anybody_is_asked(sites: list[Path]) -> None:
    for strategy in ("averaging/krum", "averaging/fedmedian", "averaging/fedtrimmedavg"):
        with pytest.raises(ConfigError, match="hides single ones"):
            simulate(sites, *SMALL, "privacy=secure_sum", strategy=strategy, rounds=1)
    with pytest.raises(ConfigError, match="At least 3"):
        simulate(sites, *SMALL, "privacy=secure_sum", "privacy.sums.least_hospitals=2", rounds=1)
    with pytest.raises(PolyclinicError, match="refinement needs single ones"):
        simulate(sites, *SMALL, "privacy=secure_sum", strategy="refinement")


def test_two_hospitals_are_too_few(sites: list[Path]) -> None:
    with pytest.raises(ConfigError, match="a secure sum needs 3"):
        simulate(sites[:2], *SMALL, "privacy=secure_sum", rounds=1)


def test_noise_tells_epsilon_and_what_protects_nobody_is_refused(sites: list[Path]) -> None:
    noisy = ("privacy=distributed_dp", "privacy.sums.clipping_norm=0.5")
    with simulate(sites, *SMALL, *noisy, strategy="averaging/fedavg", rounds=1) as result:
        assert not result.faults
        (told,) = [text for text in notes(result) if "epsilon" in text]
        assert "epsilon 4.7" in told  # one Gaussian mechanism of multiplier 1, delta 1e-5
        assert not any("within" in text for text in notes(result))
    for more in (
        ("privacy=secure_sum", "privacy.sums.noise_multiplier=1.0"),
        ("privacy=distributed_dp", "privacy.sums.clipping_norm=0"),
        ("privacy=distributed_dp", "privacy.sums.masked=false"),
    ):
        with pytest.raises(ConfigError, match=r"privacy\.sums\.noise_multiplier"):
            simulate(sites, *SMALL, *more, rounds=1)


def test_hospitals_that_demand_secure_sums_and_name_what_they_allow_take_part_in_these_alone(
    sites: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("secure_sums: true\nstrategies: [averaging]\n")
    monkeypatch.setenv("POLYCLINIC_POLICY", str(policy))
    asked = {"strategy": "averaging/fedavg", "rounds": 1}
    with simulate(sites, *SMALL, "privacy=secure_sum", **asked) as result:
        assert not result.faults
    for clear in ((), ("privacy=quantized_sum",)):
        with pytest.raises(PolyclinicError, match="demands secure sums"):
            simulate(sites, *SMALL, *clear, **asked)
