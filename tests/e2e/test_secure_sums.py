"""Secure sums between real processes, with TLS and the hospitals' enrolled keys."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from polyclinic.security.keys import fingerprint, load_public_key
from tests.e2e.federation import Federation

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]


def run(one: Federation) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    one.coordinator.start()
    for name in one.sites:
        one.join(name)
    assert one.wait() == 0, one.coordinator.log.read_text()
    one.close()
    return load_file(one.runs / "run" / "arms" / "fedavg" / "model.safetensors")


def blobs(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


def test_processes_sum_what_nobody_sees_and_a_new_key_is_noticed(
    federation: Make, sites: list[Path]
) -> None:
    settings = ("strategy=averaging/fedavg", "rounds=2", "deployment.hospitals=3")
    masked = federation(*settings, "privacy=secure_sum")
    found = run(masked)
    partners = {
        name: json.loads((masked.folder / "state" / name / "partners.json").read_text())["keys"]
        for name in masked.sites
    }
    for name in masked.sites:  # the keys that are enrolled, of everybody else
        others = {other for other in masked.sites if other != name}
        assert partners[name] == {
            other: fingerprint(load_public_key(masked.enrol(other).parent / "hospital.pub"))
            for other in others
        }
    shutil.move(masked.folder / "runs", masked.folder / "masked")
    clear = federation(*settings, "privacy=quantized_sum")
    same = run(clear)
    assert all(np.array_equal(array, same[name]) for name, array in found.items())
    del sites
