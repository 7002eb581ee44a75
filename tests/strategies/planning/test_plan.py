"""A plan: each setting may travel, CT is clipped where a channel says so, pictures have pixels."""

from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic.config.compose import load_config, load_data
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.config.plan_files import Plan, read_plan, write_plan
from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError
from polyclinic_strategies.planning.plan import make_plan, table_rows
from polyclinic_strategies.planning.strategy import Planning
from tests.strategies.planning.cohorts import Image, cohort

DATA = load_data(["data=segmentation", "data.labels=[background,left,right]"])
USUAL = Planning()
BRAINS = [Image((180, 210, 170))] * 30


def plan(images: list[Image], data: DataConfig = DATA, planning: Planning = USUAL) -> Plan:
    return make_plan(cohort(images, len(data.labels), data.channels), data, planning)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimensions", [0, 2])
def test_every_plan_composes_travels_and_builds_the_same_job(
    tmp_path: Path, dimensions: int, residual: bool
) -> None:
    made = plan(BRAINS, planning=Planning(dimensions=dimensions, residual=residual))
    path = tmp_path / "plan.yaml"
    assert write_plan(made, path) == read_plan(path)
    config = load_config([f"data={path}", "model=dynunet", "training=nnunet"])
    assert config.model["residual"] is residual and config.data.spatial_dims == (dimensions or 3)
    names, settings = job_settings(config)
    assert load_job(names, settings).data == config.data
    assert config.training.batch_size == made.settings["training.batch_size"]
    assert set(made.reasons) <= set(made.settings) and all(made.reasons.values())
    assert set(table_rows(made)) == set(made.settings)


def test_ct_is_clipped_where_a_channel_is_named_so() -> None:
    images = [Image((200, 200, 90), (0.8, 0.8, 2.5), (-100.0, 40.0, 60.0, 250.0))] * 9
    named = replace(DATA, channels=2, modality=("CT", "PET"))
    made = plan(images, named)
    assert made.settings["data.normalization"] == ["ct", "z_score"]
    figures = made.settings["data.foreground"]
    assert isinstance(figures, list) and len(figures) == 8
    assert figures[:3] == pytest.approx([-100, 250, 62.5], rel=0.03)
    assert figures[3] == pytest.approx(124.6, rel=0.03)
    for modality in ((), ("T1", "PET")):
        made = plan(images, replace(named, modality=modality))
        assert made.settings["data.normalization"] == ["z_score", "z_score"]
        assert made.settings["data.foreground"] == []


def test_ct_without_any_foreground_is_refused() -> None:
    images = [Image((20, 20, 20), intensities=())]
    with pytest.raises(ConfigError, match="foreground"):
        plan(images, replace(DATA, modality=("CT",)))
    assert plan(images).settings["data.foreground"] == []


def test_pictures_are_planned_in_pixels() -> None:
    made = plan([Image((500, 400, 1), picture=True)] * 40)
    assert made.data == "planned_2d" and made.settings["data.patch"] == [512, 448]
    assert made.settings["data.spacing_mm"] == [1.0, 1.0, 1.0]
    assert "picture" in made.reasons["data.spacing_mm"]


def test_sagittal_slices_are_put_last() -> None:
    made = plan([Image((15, 384, 384), (4.0, 0.7, 0.7))] * 20, planning=Planning(dimensions=2))
    assert made.settings["data.orientation"] == "ASR"
    assert made.settings["data.spacing_mm"] == [0.7, 0.7, 4.0]
    assert made.settings["data.patch"] == [384, 384]


def test_data_that_are_asked_for_in_2d_are_planned_in_2d() -> None:
    assert plan(BRAINS, load_data(["data=segmentation_2d"])).data == "planned_2d"


def test_a_smaller_memory_makes_a_smaller_plan() -> None:
    small, large = (plan(BRAINS, planning=Planning(memory_gb=each)) for each in (2.0, 16.0))
    assert small.memory_gb <= 2.0 < large.memory_gb <= 16.0
    for wrong in ({"memory_gb": 0.0}, {"memory_gb": float("nan")}, {"dimensions": 4}):
        with pytest.raises(ConfigError):
            Planning(**wrong)
