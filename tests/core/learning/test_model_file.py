"""A model's file that says nonsense of its network, or claims more than it holds, is invalid."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.errors import ModelInvalid
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import save_state

NAMES = {"model": "unet_2d", "data": "brain_tissue_slices", "training": "default"}


@pytest.mark.parametrize(
    "text",
    ["", "7", "[]", "null", "9" * 5000, "[" * 100_000, '{"names": {}, "settings": 1}', "{" * 9],
)
def test_a_models_file_that_says_nonsense_is_invalid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_state({"weight": torch.zeros(3)}, path, {"polyclinic": text})
    with pytest.raises(ModelInvalid):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"model.channels": [500, 500, 500, 500]}}, "parameters"),
        ({"settings": {"model[_target_]": "monai.networks.nets.SegResNet"}}, "from afar"),
        ({"names": {**NAMES, "model": "../unet"}}, "not a name"),
        ({"names": {**NAMES, "model": "universal"}, "task": {"kind": "x"}}, "kind"),
    ],
)
def test_a_models_file_that_claims_more_than_it_holds_is_invalid(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    text = json.dumps({"names": NAMES, "settings": {}, **changes})
    save_state({"weight": torch.zeros(3)}, path, {"polyclinic": text})
    with pytest.raises(ModelInvalid, match=said):
        load_model(path)
