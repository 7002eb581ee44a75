"""MONAI bundles train unchanged in a federation of one process."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.errors import BundleInvalid, ModelInvalid
from polyclinic.learning.bundles.weights import load_weights
from polyclinic.learning.model_file import load_model
from polyclinic.simulation.run import simulate
from tests.monai_bundles import lung, spleen, write_bundle, write_hospital

Parts = tuple[dict[str, Any], dict[str, Any]]
LABELS = {"spleen": ("background", "spleen"), "lung": ("clear", "nodule")}


def hospitals(folder: Path, name: str) -> list[Path]:
    return [
        write_hospital(folder / site, LABELS[name], segmentation=name == "spleen")
        for site in ("north", "west")
    ]


@pytest.mark.parametrize(("name", "parts"), [("spleen", spleen()), ("lung", lung())])
def test_a_bundle_trains_from_its_own_weights(name: str, parts: Parts, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / name, parts)
    sites = hospitals(tmp_path / "data", name)
    asked = ["model=bundle", f"bundle={bundle}", "training.learning_rate=1e-6"]
    with simulate(sites, *asked, rounds=1) as result:
        assert not result.faults and set(result.scores["fedavg"]) == {"north", "west"}
        network, job = load_model(result.folder / "arms" / "fedavg" / "model.safetensors")
    assert job.data.labels == LABELS[name]
    weights, base = network.state_dict(), load_weights(bundle / "models" / "model.pt")
    assert list(weights) == list(base)
    parameters = [key for key, _ in network.named_parameters()]
    far = max(float((weights[key] - base[key]).abs().max()) for key in parameters)
    assert 0 < far < 1e-4  # a step of that rate away from the bundle's weights


def test_weights_of_another_network_or_objects_end_the_run(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "spleen", spleen())
    sites = hospitals(tmp_path / "data", "spleen")
    torch.save(torch.nn.Linear(2, 2), bundle / "models" / "model.pt")
    with pytest.raises(ModelInvalid, match=r"model\.pt"):
        simulate(sites, f"bundle={bundle}", rounds=1)
    shutil.rmtree(bundle / "configs")
    with pytest.raises(BundleInvalid):
        simulate(sites, f"bundle={bundle}", rounds=1)
