"""A service's model: what it computes, and which files are none."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polyclinic.config.compose import instantiate
from polyclinic.config.jobs import load_job
from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import save_state
from polyclinic_server.segmentation.model import Interrupted, SegmentationModel
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from tests.server.segmentation.segmentation_services import (
    SHAPE,
    Thirds,
    a_model,
    a_volume,
    expected,
)

NAMES = {"model": "unet", "data": "brain_tissue", "training": "default"}
SETTINGS: dict[str, Any] = {
    "model.channels": [2, 4],
    "model.strides": [2],
    "data.patch": [16, 24, 16],
}
PROXY = {"shape": [16, 24, 16], "digest": "d" * 64}


def write_model(
    path: Path,
    proxy: Any = PROXY,
    names: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    job = load_job(names or NAMES, SETTINGS if settings is None else settings)
    described = {
        "names": names or NAMES,
        "settings": SETTINGS if settings is None else settings,
        "proxy": proxy,
    }
    save_state(instantiate(job.model).state_dict(), path, {"polyclinic": json.dumps(described)})
    return path


def test_a_file_becomes_a_model(tmp_path: Path) -> None:
    model = SegmentationModel.load(write_model(tmp_path / "model.safetensors"))
    assert (model.shape, model.digest, model.labels[0]) == ((16, 24, 16), "d" * 64, "background")
    answer = model.segment(a_volume(), wire.PROBABILITIES, threading.Event())
    assert answer.shape == (3, *SHAPE) and answer.dtype == np.uint8


@pytest.mark.parametrize(
    "proxy",
    [
        None,
        {},
        {"shape": [16, 24], "digest": "d"},
        {"shape": [16, 24, 0], "digest": "d"},
        {"shape": [16, 24, 1.5], "digest": "d"},
        {"shape": [10**9] * 3, "digest": "d"},
        {"shape": [16, 24, 16], "digest": ""},
        {"shape": [16, 24, 16], "digest": 1},
    ],
)
def test_a_model_of_another_kind_is_refused(proxy: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="was not trained on proxies"):
        SegmentationModel.load(write_model(tmp_path / "model.safetensors", proxy))


def test_a_slice_is_no_proxy(tmp_path: Path) -> None:
    names = {**NAMES, "model": "unet_2d", "data": "brain_tissue_slices"}
    with pytest.raises(ModelInvalid, match="three dimensions"):
        SegmentationModel.load(
            write_model(tmp_path / "model.safetensors", names=names, settings={})
        )


def test_a_network_that_fails_is_met_at_the_start(tmp_path: Path) -> None:
    odd = {**SETTINGS, "model.strides": [2], "data.patch": [15, 24, 16]}
    with pytest.raises(ModelInvalid, match="Train it again"):
        SegmentationModel.load(write_model(tmp_path / "model.safetensors", settings=odd))


def test_labels_and_probabilities_say_the_same() -> None:
    model, volume, gone = a_model(), a_volume(), threading.Event()
    labels = model.segment(volume, wire.LABELS, gone)
    np.testing.assert_array_equal(labels, expected(volume))
    foreground = model.segment(volume, wire.PROBABILITIES, gone).astype(int)
    sure = np.abs(foreground - 127) > 100
    np.testing.assert_array_equal((foreground[1] > 127)[sure[1]], (labels == 2)[sure[1]])


def test_who_left_is_not_computed() -> None:
    gone = threading.Event()
    gone.set()
    with pytest.raises(Interrupted):
        a_model().segment(a_volume(), wire.LABELS, gone)


def test_an_answer_that_is_not_finite_is_a_failure() -> None:
    class Diverged(Thirds):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) / torch.zeros(1)

    with pytest.raises(ArithmeticError, match="not finite"):
        a_model(Diverged()).segment(a_volume(), wire.LABELS, threading.Event())
