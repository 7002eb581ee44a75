"""A plan for regions that overlap: from a folder to a few steps of nnU-Net's training."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from polyclinic.config.compose import load_config
from polyclinic.config.plan_files import write_plan
from polyclinic.errors import ConfigError
from polyclinic.federation.jobs import build_network, check_network
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.preparation import prepare
from polyclinic_strategies.planning.fingerprint import measure_case
from polyclinic_strategies.planning.folders import plan_folders
from polyclinic_strategies.planning.strategy import Planning
from tests.label_cohorts import REGIONS, write_findings, write_regions

FEW = {"training": 2, "validation": 1}
VALUES = "data.region_values=[2,1,4]"


def test_regions_are_planned_and_trained(tmp_path: Path) -> None:
    site = write_regions(tmp_path / "site", counts=FEW)
    plan = write_plan(plan_folders([site], [VALUES], Planning()), tmp_path / "plan.yaml")
    assert plan.settings["data.task"] == "regions"
    assert plan.settings["data.labels"] == list(REGIONS)
    config = load_config(
        [f"data={tmp_path / 'plan.yaml'}", "model=dynunet", "training=nnunet", "model.features=4",
         "training.steps=2"]
    )  # fmt: skip
    assert (config.data.kind.name, config.data.region_values) == ("regions", (2, 1, 4))
    network = build_network(config)
    check_network(network, config)
    prepared = prepare(read_dataset(site), config.data)
    assert len(prepared.training[0].foreground) == len(REGIONS)
    loader = training_loader(prepared, config.training, 0)
    result = training.fit(network, loader, config.training, config.data)
    assert result.steps == 2 and 0 < result.loss < 3
    found = training.evaluate(network, prepared.validation, config.data, config.training)
    assert tuple(found.scores) == tuple(REGIONS)


def test_a_fingerprint_tells_the_shares_of_regions_as_they_are_drawn(tmp_path: Path) -> None:
    """Background, whole tumour without its core, core without what enhances, enhancing: sum 1."""
    dataset = read_dataset(write_regions(tmp_path / "site", counts=FEW))
    data = load_config(["data=regions", "training=regions"]).data
    case = dataset.training[0]
    shares = measure_case(case, data)["classes"]
    assert shares.sum() == pytest.approx(1)
    label = np.asarray(nibabel.load(case.label).dataobj)
    assert shares.tolist() == pytest.approx([float((label == n).mean()) for n in (0, 2, 1, 4)])


def test_findings_have_no_plan(tmp_path: Path) -> None:
    site = write_findings(tmp_path / "site", counts=FEW)
    with pytest.raises(ConfigError, match="A plan is made for segmentation"):
        plan_folders([site], [], Planning())
