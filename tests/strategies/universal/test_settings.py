"""Settings of the universal model: defaults, limits, and parts that are made for own tasks."""

import pytest

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic_strategies.universal.settings import (
    UniversalConfig,
    check_parts,
    universal_settings,
)

PARTS = ["model=universal", "data=universal", "training=universal"]


def test_settings_are_those_of_the_training_or_the_defaults() -> None:
    found = universal_settings(load_config([*PARTS, "training.universal.rank=4"]).training)
    assert found == UniversalConfig(rank=4)
    assert universal_settings(load_config().training) == UniversalConfig()


@pytest.mark.parametrize("missing", ["model=universal", "training=universal"])
def test_own_tasks_need_a_network_and_a_loss_that_are_made_for_them(missing: str) -> None:
    whole, other = load_config(PARTS), load_config([part for part in PARTS if part != missing])
    check_parts(whole.model, whole.training)
    with pytest.raises(ConfigError, match="model=universal training=universal"):
        check_parts(other.model, other.training)
