"""`python -m polyclinic_client.fleet.beside SITE DATA STATE`: fine-tuning beside a SuperNode.

A hospital that merges contributions trains outside Flower's messages. `polyclinic-client join` does
so by itself; where Flower's own SuperNode answers the coordinator, this process does, until Ctrl-C.
Both share the folder STATE.
"""

import sys
import time
from contextlib import suppress
from pathlib import Path

from polyclinic.system.processes import stop_all
from polyclinic_client.fleet.fine_tuner import LOOK_S, FineTuner
from polyclinic_client.fleet.join import only_client
from polyclinic_client.network.connection import Say


def fine_tune(site: str, data: Path, state: Path, say: Say) -> None:
    """Train whenever the coordinator has asked for it, until interrupted.

    Args:
        site: What this hospital is called.
        data: Folder with dataset.json.
        state: Folder of the hospital's models, logs and outbox.
        say: Told what happens, a line at a time.

    Raises:
        ResourceError: Another client uses the folder.
    """
    with only_client(state):
        trainer = FineTuner(site, data.resolve(), state.resolve(), say)
        trainer.outbox.forget_failure()
        try:
            while True:
                trainer.tend()
                time.sleep(LOOK_S / 2)
        finally:
            stop_all([trainer.child], patience_s=4.0)


def say_so(text: str) -> None:
    """Write a line for the hospital's log."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    site, data, state = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        fine_tune(site, Path(data), Path(state), say_so)
