"""The lines of the README that simulate a federation run as they stand there."""

from pathlib import Path
from typing import Any

import pytest

import polyclinic
from polyclinic.simulation.run import simulate
from tests.core.simulation.small_hospitals import SMALL, write_hospitals
from tests.docs.pages import ROOT, code_blocks


def test_the_readme_s_simulation_ends_with_a_table_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = [
        block.text
        for block in code_blocks(ROOT / "README.md")
        if "polyclinic.simulate(" in block.text
    ]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 8
    write_hospitals(tmp_path / "data", "north", "south")
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {}

    def simulate_small(hospitals: Any, *settings: str, **more: Any) -> Any:
        asked.update(more)
        del more["model"]
        return simulate(hospitals, *SMALL, *settings, **more)

    monkeypatch.setitem(vars(polyclinic), "simulate", simulate_small)  # the same, of fewer voxels
    exec(compile(lines, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("north", "south", "mean"))
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert asked["rounds"] == 3 and "fedavg" in asked["strategy"]
