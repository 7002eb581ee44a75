"""What of the configuration reaches Flower's classes."""

import pytest
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Strategy

from polyclinic.config.compose import instantiate, load_config
from polyclinic.errors import ConfigError
from polyclinic_strategies.averaging.coordinator import AveragingCoordinator


def build(*overrides: str) -> Strategy:
    config = load_config(overrides)
    strategy: Strategy = instantiate(config.strategy, _recursive_=False).build(
        config.privacy, ["0.weight"]
    )
    return strategy


@pytest.mark.parametrize("privacy", ["none", "noisy_descriptions"])
def test_the_release_of_statistics_wraps_no_averaging(privacy: str) -> None:
    assert isinstance(build(f"privacy={privacy}"), FedAvg)


def test_the_release_of_statistics_is_no_setting_of_flowers() -> None:
    made = build(
        "privacy=server_side_dp",
        "privacy.release.noise_multiplier=2.0",
        "privacy.noise_multiplier=0.5",
    )
    assert isinstance(made, DifferentialPrivacyServerSideFixedClipping)
    assert made.noise_multiplier == 0.5


@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "fedadam", "fedyogi", "krum"])
def test_noise_for_a_mean_is_refused_before_a_run_where_there_is_none(name: str) -> None:
    config = load_config([f"strategy=averaging/{name}", "privacy=server_side_dp"])
    with pytest.raises(ConfigError, match="privacy=server_side_dp"):
        AveragingCoordinator(config).check()
