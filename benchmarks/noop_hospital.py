"""A hospital whose worker answers at once, so that a round's time is that of the federation itself.

    python benchmarks/noop_hospital.py STATE --kit KIT
    python benchmarks/noop_hospital.py STATE --server 127.0.0.1:PORT --name NAME

It is `polyclinic-client join` with another worker: `noop_worker.py`.
"""

import argparse
import sys
import time
from pathlib import Path

from polyclinic.system.processes import end_with_parent
from polyclinic_client.fleet.supervisor import Supervisor
from polyclinic_client.network.connection import make_connection


def main() -> None:
    """Take part until terminated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("--kit", type=Path)
    parser.add_argument("--server")
    parser.add_argument("--name")
    asked = parser.parse_args()
    end_with_parent()
    connection = make_connection(
        asked.server, asked.name, asked.kit, None, insecure=asked.kit is None
    )
    said = sys.stderr
    supervisor = Supervisor(
        connection,
        asked.state,
        asked.state,
        lambda text: print(text, file=said, flush=True),
        module="noop_worker",
    )
    supervisor.start()
    while True:
        supervisor.tend()
        time.sleep(0.5)


if __name__ == "__main__":
    main()
