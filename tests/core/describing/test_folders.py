"""A folder of pictures is described: what an image is must be said, a model need not be there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyclinic.describing.folders import describe
from polyclinic.errors import ConfigError, ImageInvalid


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four grey pictures without labels."""
    generator = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        Image.fromarray(generator.integers(1, 255, (24, 20), np.uint8)).save(tmp_path / name)
    listed = {"name": "a", "modality": {"0": "grey"}, "labels": {"0": "background", "1": "disc"}}
    (tmp_path / "dataset.json").write_text(json.dumps({**listed, "test": names}))
    return tmp_path


@pytest.mark.parametrize("task", ["segmentation_2d", "classification_2d"])
def test_pictures_need_no_model_and_no_training(task: str, photographs: Path) -> None:
    settings = [f"data={task}", "data.channels=1", "data.patch=[16,16]"]
    found = describe(photographs, ["histogram", "average_image"], *settings)
    assert found["histogram"].shape == (32,) and found["average_image"].shape == (12 * 12,)


def test_pictures_under_a_task_of_volumes_are_told_the_setting(photographs: Path) -> None:
    with pytest.raises(ImageInvalid, match=r"2-D.*data=segmentation_2d"):
        describe(photographs, ["histogram"], "data=segmentation")


def test_a_statistic_of_features_asks_for_a_model(photographs: Path) -> None:
    with pytest.raises(ConfigError, match=r"early_features.*model=FILE"):
        describe(photographs, ["histogram", "early_features"], "data=segmentation_2d")


def test_a_patch_of_four_axes_is_refused(photographs: Path) -> None:
    with pytest.raises(ConfigError, match="patch"):
        describe(photographs, ["histogram"], "data.patch=[8,8,8,8]")
