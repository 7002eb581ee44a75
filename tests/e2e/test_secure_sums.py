"""Secure sums between real processes, with TLS and the hospitals' enrolled keys."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from polyclinic.security.keys import fingerprint, load_public_key
from polyclinic.store.ledger import Ledger
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


def test_a_batch_of_merging_is_summed_though_a_hospital_dies_and_comes_back(
    federation: Make,
) -> None:
    settings = ("strategy=merging/mean", "strategy.poll_s=0.5", "rounds=40")
    masked = federation(*settings, "deployment.hospitals=3", "privacy=secure_sum")
    unlucky, *others = masked.sites
    masked.coordinator.start()
    masked.join(unlucky)
    masked.freeze_in_training(unlucky)
    masked.kill_all(unlucky)
    for name in (unlucky, *others):
        masked.join(name)
    assert masked.wait() == 0, masked.coordinator.log.read_text()
    masked.close()
    with Ledger.open(masked.runs / "run" / "ledger", create=False) as ledger:
        (batch,) = ledger.batches()
        assert set(batch.members) == set(masked.sites) and ledger.verify() is None
        published = ledger.publications()[-1].digest
    shutil.move(masked.folder / "runs", masked.folder / "masked")
    shutil.move(masked.folder / "state", masked.folder / "masked-state")
    clear = federation(*settings, "deployment.hospitals=3", "privacy=quantized_sum")
    clear.coordinator.start()
    for name in clear.sites:
        clear.join(name)
    assert clear.wait() == 0, clear.coordinator.log.read_text()
    with Ledger.open(clear.runs / "run" / "ledger", create=False) as ledger:
        assert ledger.publications()[-1].digest == published
