"""Whatever a ledger has acknowledged survives the death of its process at any moment.

    POLYCLINIC_KILLS=1000 python -m pytest tests/core/store/test_ledger_durability.py

The killing is done by a process of its own: pytest's has threads, and forking it would not be safe.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = int(os.environ.get("POLYCLINIC_KILLS", "60"))


def test_nothing_acknowledged_is_lost_or_counted_twice(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.core.store.killing", str(tmp_path), str(KILLS)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 + KILLS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    tally = json.loads(ran.stdout)
    assert tally["kills"] == KILLS
    assert tally["acknowledged"] > KILLS / 2
    assert (tally["lost"], tally["duplicated"], tally["faults"]) == (0, 0, [])
