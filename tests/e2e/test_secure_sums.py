"""Secure sums between real processes, with TLS and the hospitals' enrolled keys."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from polyclinic.security.keys import fingerprint, load_public_key
from tests.e2e.federation import Federation

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]


def run(one: Federation) -> dict[str, np.ndarray[Any, Any]]:
    one.coordinator.start()
    for name in one.sites:
        one.join(name)
    assert one.wait() == 0, one.coordinator.log.read_text()
    one.close()
    return load_file(one.runs / "run" / "arms" / "fedavg" / "model.safetensors")


def test_processes_sum_by_their_enrolled_keys_what_nobody_sees(federation: Make) -> None:
    settings = ("strategy=averaging/fedavg", "rounds=2", "deployment.hospitals=3")
    masked = federation(*settings, "privacy=secure_sum")
    found = run(masked)
    for name in masked.sites:  # each knows the others by the keys that are enrolled
        kept = json.loads((masked.folder / "state" / name / "partners.json").read_text())
        assert kept["keys"] == {
            other: fingerprint(load_public_key(masked.enrol(other).parent / "hospital.pub"))
            for other in masked.sites
            if other != name
        }
    assert {each["phase"] for each in masked.events("answered")} >= {
        "train",
        "query.share",
        "query.mask",
        "query.survive",
        "query.reveal",
    }
    shutil.move(masked.folder / "runs", masked.folder / "masked")
    same = run(federation(*settings, "privacy=quantized_sum"))
    assert all(np.array_equal(array, same[name]) for name, array in found.items())
