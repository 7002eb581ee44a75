"""Files of models that were never trained."""

import json
from pathlib import Path

import torch

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.learning.state_dict import save_state

TINY = ("model=unet_2d", "data=segmentation_2d", "model.channels=[4,8]", "model.strides=[2]")


def write_model(path: Path, *settings: str, seed: int = 0, **told: object) -> Path:
    config = load_config(settings or TINY)
    names, changed = job_settings(config)
    torch.manual_seed(seed)
    described = {"names": names, "settings": changed, "round": 3, **told}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_state(instantiate(config.model).state_dict(), path, {"polyclinic": json.dumps(described)})
    return path
