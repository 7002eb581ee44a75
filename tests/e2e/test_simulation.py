"""A simulation comes to the bits of a federation of processes, where that is promised."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import polyclinic
from tests.e2e.conftest import ROUNDS
from tests.e2e.federation import TINY, Federation

pytestmark = pytest.mark.e2e


def test_rounds_with_normalization_of_each_hospital_s_own(
    undisturbed: Federation, sites: list[Path], tmp_path: Path
) -> None:
    result = polyclinic.simulate(
        sites, *TINY, "strategy=averaging/fedbn", ROUNDS, folder=tmp_path, progress=False
    )
    check_same(
        undisturbed.runs / "run" / "arms" / "fedbn" / "model.safetensors",
        result.folder / "arms" / "fedbn" / "model.safetensors",
    )
    for site in sites:
        own = Path("fedbn") / "model.safetensors"
        check_same(
            undisturbed.folder / "state" / site.name / "runs" / "run" / own,
            result.hospitals[site.name] / "runs" / result.folder.name / own,
        )
    tested = {
        line["site"]: line["score"] for line in undisturbed.metrics() if line["phase"] == "test"
    }
    assert result.scores["fedbn"] == tested


def check_same(one: Path, other: Path) -> None:
    """Two files hold the same tensors, bit for bit."""
    ours, theirs = load_file(one), load_file(other)
    assert set(ours) == set(theirs) and ours
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
