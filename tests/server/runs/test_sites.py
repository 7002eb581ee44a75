"""Which hospitals a run gets."""

from pathlib import Path

import pytest

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.runs.sites import chosen_sites


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = local_authority(tmp_path / "security", 1)
    for site in ("anne", "bruno", "clara"):
        kit_for(made, site)
    registry = Registry(made.folder)
    registry.revoke("clara", "left")
    registry.close()
    return made


def chosen(authority: Authority | None, *settings: str) -> tuple[str, ...]:
    return chosen_sites([load_config([f"deployment.{each}" for each in settings])], authority)


def test_all_hospitals_take_part_unless_some_are_named(authority: Authority) -> None:
    assert chosen(authority) == chosen(None) == ()
    assert chosen(authority, "sites=[bruno,anne,bruno]") == ("bruno", "anne")
    assert chosen(None, "sites=[anybody,else]") == ("anybody", "else")


def test_a_hospital_must_be_enrolled_and_there_must_be_enough(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"dora, clara is not enrolled. Enrolled: anne, bruno\."):
        chosen(authority, "sites=[dora,anne,clara]")
    with pytest.raises(ConfigError, match="names 1 hospitals, and the run waits for 2"):
        chosen(authority, "sites=[anne]")
    with pytest.raises(ConfigError, match="names 2 hospitals, and the run waits for 3"):
        chosen(authority, "sites=[anne,bruno]", "hospitals=3")
