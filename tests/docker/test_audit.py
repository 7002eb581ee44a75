"""An audit tells advisories, none, and no database apart."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"name": "a", "version": "1", "vulns": []}
KNOWN = {"name": "b", "version": "2", "vulns": [{"id": "ADV-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "it is not there"}


def audit(folder: Path, told: str, complaint: str = "") -> subprocess.CompletedProcess[str]:
    """Run the audit with a program in pip-audit's place."""
    program = folder / "pip-audit"
    lines = (f"#!{sys.executable}", "import sys", f"print({told!r})")
    program.write_text("\n".join([*lines, f"sys.exit({complaint!r} or 0)", ""]))
    program.chmod(stat.S_IRWXU)
    command = [sys.executable, "docker/audit.py", str(program)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("packages", "status", "line"),
    [
        ([CLEAN], 0, "1 packages audited, 0 with advisories; 0 not in the database"),
        ([CLEAN, SKIPPED], 0, "1 packages audited, 0 with advisories; 1 not in the database"),
        ([CLEAN, KNOWN], 1, "b 2: ADV-1, mended by 3"),
    ],
)
def test_it_counts_what_it_audited(
    tmp_path: Path, packages: list[dict[str, object]], status: int, line: str
) -> None:
    done = audit(tmp_path, json.dumps({"dependencies": packages}))
    assert done.returncode == status and line in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("told", "complaint"),
    [(json.dumps({"dependencies": [SKIPPED]}), ""), ("", "Failed to resolve host: timed out")],
)
def test_no_database_is_not_taken_for_no_advisory(
    tmp_path: Path, told: str, complaint: str
) -> None:
    done = audit(tmp_path, told, complaint)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("No advisory database can be reached from here")


def test_a_failure_of_its_own_is_told(tmp_path: Path) -> None:
    done = audit(tmp_path, "", "no such option")
    assert (done.returncode, done.stderr) == (2, "pip-audit failed: no such option\n")
