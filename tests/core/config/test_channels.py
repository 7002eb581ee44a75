"""Channels have names, so that every hospital gives them in one order."""

from pathlib import Path

import pytest

from polyclinic.config.compose import load_config, load_data
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.config.validation import check_channels
from polyclinic.errors import ConfigError
from polyclinic.federation.run_folder import list_runs
from polyclinic.simulation.setup import prepare_run
from polyclinic_server.runs.coordinator import create_run

TWO = ("data=segmentation", "model=unet", "data.channels=2")


@pytest.mark.parametrize(
    "settings",
    [
        ("data=segmentation",),
        ("data=segmentation", "data.modality=[CT]"),
        (*TWO[::2], "data.modality=[T1,FLAIR]"),
        ("data=white_blood_cells",),
        ("data=universal",),
    ],
)
def test_channels_with_names_are_accepted(settings: tuple[str, ...]) -> None:
    check_channels(load_data(settings))


@pytest.mark.parametrize("named", ["[]", "[T1]", "[T1,T2,FLAIR]"])
def test_a_new_run_of_several_channels_names_each(tmp_path: Path, named: str) -> None:
    settings = [*TWO, f"data.modality={named}"]
    with pytest.raises(ConfigError, match=r"data\.channels=2"):
        create_run([*settings, f"deployment.runs={tmp_path}"], "run")
    with pytest.raises(ConfigError, match=r"data\.modality=\["):
        prepare_run(tmp_path, settings, resume=False)
    assert list_runs(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_the_names_travel_to_the_hospitals() -> None:
    config = load_config([*TWO, "data.modality=[T1,FLAIR]"])
    names, settings = job_settings(config)
    assert load_job(names, settings).data.modality == ("T1", "FLAIR")
    # jobs of earlier versions have no names
    assert load_job(names, {"data.channels": 2}).data.modality == ()
