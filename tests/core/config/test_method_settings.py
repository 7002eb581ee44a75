"""Nodes training.NAME: the settings of an installed method, checked by its schema on both sides."""

import pytest

from polyclinic.config.compose import as_yaml, load_config
from polyclinic.config.jobs import job_digests, job_settings, load_job
from polyclinic.errors import ConfigError
from polyclinic_strategies.universal.settings import UniversalConfig
from tests.plugins import Installer

OWN = ["model=universal", "data=universal", "training=universal"]
METHOD = """
from pydantic.dataclasses import dataclass
from polyclinic.config.schemas import STRICT, Count
from polyclinic.federation.method import Method


@dataclass(frozen=True, config=STRICT)
class Settings:
    turns: Count = 3


METHOD = Method(
    name="toy", pace="rounds", coordinator="toy:None", hospital="toy:None", settings="toy:Settings"
)
"""
TRAINING = "defaults: [default]\n\ntoy:\n  turns: 5\n"


def test_settings_become_what_the_method_says() -> None:
    config = load_config([*OWN, "training.universal.rank=4"])
    assert config.training.methods == {"universal": UniversalConfig(rank=4)}
    assert load_config().training.methods == {}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.universal.rank=-1", "training.universal.rank=-1"),
        ("training.universal.learn=everything", "training.universal.learn='everything'"),
        ("training.universal.ranks=2", "training.universal.ranks"),
        ("+training.universal.ranks=2", "training.universal.ranks=2"),
        ("+training.nothing.rank=2", "training.nothing"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([*OWN, override])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_settings_travel_and_both_sides_agree() -> None:
    config = load_config([*OWN, "training.universal.rank=4", "training.universal.mask_size=16"])
    names, settings = job_settings(config)
    assert settings == {"training.universal.mask_size": 16, "training.universal.rank": 4}
    job = load_job(names, settings)
    assert job.training == config.training
    other = load_job(names, {**settings, "training.universal.rank": 5})
    assert job_digests(job)["training"] != job_digests(other)["training"]
    with pytest.raises(ConfigError):
        load_job(names, {"training.universal.learn": "everything"})


def test_what_is_kept_with_a_run_has_the_settings_where_they_were_composed() -> None:
    kept = as_yaml(load_config([*OWN, "training.universal.rank=4"]))
    assert "  universal:\n    learn: task\n    rank: 4\n" in kept and "methods" not in kept


def test_the_settings_of_an_installed_method_are_checked_alike(installer: Installer) -> None:
    offers = {"polyclinic.methods": {"toy": "toy:METHOD"}, "polyclinic.conf": {"toy": "toy_conf"}}
    files = {"toy.py": METHOD, "toy_conf/training/toy.yaml": TRAINING}
    installer.install("polyclinic-toy", "0.3", offers, files)
    config = load_config(["training=toy", "training.toy.turns=7"])
    assert config.training.methods["toy"].turns == 7
    assert job_settings(config)[1] == {"training.toy.turns": 7}
    with pytest.raises(ConfigError, match=r"training\.toy\.turns=0"):
        load_config(["training=toy", "training.toy.turns=0"])
