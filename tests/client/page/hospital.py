"""A hospital's state folder and data, with all that its page shows."""

import os
from dataclasses import replace
from pathlib import Path

from polyclinic_client.policy.asked import Asked
from polyclinic_client.policy.decisions import note_asked
from polyclinic_client.sent.journal import FILE, Journal, Leaving
from polyclinic_client.site.status import CONNECTED, CONNECTION, WORKER, StatusFile
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort


def make_state(state: Path, run: str = "brain-2026", *, approval: bool = True) -> str:
    """Write the folder; return the digest of what was asked for."""
    state.mkdir(parents=True)
    if approval:
        (state / "policy.yaml").write_text("approval: true\n")
    names = {"model": "unet", "data": "brain_tissue", "training": "default"}
    digest = note_asked(state, Asked(run=run, method="averaging", rounds=10, names=names))
    journal = Journal(state / FILE)
    journal.append(
        Leaving("hello", 40, "0" * 64),
        Leaving("greeting", 900, "1" * 64, run=run),
        Leaving("update", 5_000_000, "2" * 64, run=run, strategy="fedavg", round=1),
    )
    StatusFile(state / CONNECTION).write(CONNECTED, {}, force=True)
    working = {"run": run, "round": 2, "rounds": 10, "step": 30, "steps": 100, "left_s": 90.0}
    StatusFile(state / WORKER).write("training", working, force=True)
    (state / "refined.safetensors").write_bytes(os.urandom(1000))
    return digest


def make_data(folder: Path) -> Path:
    """Write a small hospital's images; return its data folder."""
    coarse = [replace(HOSPITALS[0], voxel_mm=(5.0, 5.0, 6.0))]
    return write_cohort(folder, sites=1, subjects=(2, 1, 1), seed=3, scanners=coarse)[0]
