"""Seconds per round of stock Flower with a client that does nothing.

    python benchmarks/peers/flower_stock.py --hospitals 3 --rounds 3

One `flower-superlink` and one `flower-supernode` per hospital run as real processes on loopback,
without TLS, with Flower's defaults (`--isolation subprocess`: each message starts a new Python
process that unpacks the app's bundle, imports it, replies and ends). A round is Flower's own
FedAvg: every hospital trains (returns the 10 arrays of 1000 float32 that it received,
`num-examples` 1), the server averages, every hospital evaluates the average. The server app writes
a time stamp before the first round and at the end of each, through FedAvg's own `evaluate_fn` hook;
starting the processes, submitting the run and waiting for all hospitals to connect come before the
first stamp.

Flower's fixed sleeps, left as they are, take a good part of each of a round's two exchanges: a
SuperNode sleeps 3 s after it found no message and 0.5 s between looks for its app's reply, its
executor looks for a task every second, and the server app sleeps 3 s between looks for replies.
Starting the processes takes the rest, and grows with the number of hospitals once they share the
cores. The sleeps fall into step with each other, so rounds differ by whole sleeps.

The installation of dependencies at run time is switched off: it happens before the first round and
the app has none.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # run as a script, nothing installed

from benchmarks.peers.processes import (
    ProcessGroup,
    Result,
    free_ports,
    leave_on_sigterm,
    read_stamps,
    result_from_stamps,
)

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "noop-benchmark"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "noop.server_app:app"
clientapp = "noop.client_app:app"

[tool.flwr.app.config]
hospitals = {hospitals}
rounds = {rounds}
stamps = "{stamps}"
"""

SERVER_APP = '''\
"""FedAvg over all hospitals, with a time stamp at the start and at the end of each round."""

import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    hospitals = config["hospitals"]
    while len(list(grid.get_node_ids())) < hospitals:
        time.sleep(0.2)

    def stamp(server_round, arrays):
        with Path(config["stamps"]).open("a") as file:
            file.write(f"{time.monotonic()}\\n")

    strategy = FedAvg(
        min_train_nodes=hospitals,
        min_evaluate_nodes=hospitals,
        min_available_nodes=hospitals,
    )
    arrays = ArrayRecord([np.zeros(1000, np.float32) for _ in range(10)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=config["rounds"], evaluate_fn=stamp)
'''

CLIENT_APP = '''\
"""A hospital that replies at once."""

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message, context):
    content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})})
    return Message(content, reply_to=message)
'''

CLI_CONFIG = """\
[superlink]
default = "benchmark"

[superlink.benchmark]
address = "127.0.0.1:{port}"
insecure = true
"""


def measure(hospitals: int, rounds: int, folder: Path, limit_s: float = 900.0) -> Result:
    """Run a federation and return its seconds per round.

    Args:
        hospitals: Number of SuperNodes.
        rounds: Number of rounds, each with training and evaluation.
        folder: Where the app, the logs and each process's `FLWR_HOME` go; empty or not there yet.
        limit_s: The run must end within this time.

    Raises:
        RuntimeError: the run was refused, or a process ended early.
        TimeoutError: `limit_s` passed.
    """
    folder = folder.resolve()
    stamps = folder / "stamps.txt"
    app = _write_app(folder / "app", hospitals, rounds, stamps)
    with ProcessGroup(folder / "logs") as group:
        port, *runtimes = free_ports(1 + hospitals)
        _start(group, port, runtimes, folder)
        _submit(group, app, port, folder)
        group.wait(lambda: len(read_stamps(stamps)) > rounds, limit_s)
    return result_from_stamps("flower-stock", version("flwr"), hospitals, read_stamps(stamps))


def _write_app(folder: Path, hospitals: int, rounds: int, stamps: Path) -> Path:
    package = folder / "noop"
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        PYPROJECT.format(hospitals=hospitals, rounds=rounds, stamps=stamps)
    )
    (package / "__init__.py").write_text("")
    (package / "server_app.py").write_text(SERVER_APP)
    (package / "client_app.py").write_text(CLIENT_APP)
    return folder


def _start(group: ProcessGroup, superlink_port: int, runtimes: list[int], folder: Path) -> None:
    address = f"127.0.0.1:{superlink_port}"
    superlink = ["flower-superlink", "--insecure", "--host", "127.0.0.1"]
    superlink += ["--port", str(superlink_port), "--disable-runtime-dependency-installation"]
    group.start("superlink", superlink, _environment(folder / "home-superlink"), folder)
    for number, port in enumerate(runtimes):
        supernode = [
            "flower-supernode",
            "--insecure",
            "--superlink",
            address,
            "--port",
            str(port),
        ]
        group.start(
            f"supernode-{number}", supernode, _environment(folder / f"home-{number}"), folder
        )


def _submit(
    group: ProcessGroup, app: Path, port: int, folder: Path, limit_s: float = 120.0
) -> None:
    """Submit the run, as soon as the SuperLink answers."""
    environment = _environment(folder / "home-cli")
    (folder / "home-cli" / "config.toml").write_text(CLI_CONFIG.format(port=port))
    said = ""

    def submitted() -> bool:
        nonlocal said
        command = ["flwr", "run", str(app), "benchmark", "--format", "json"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
        said = done.stdout + done.stderr
        return done.returncode == 0 and '"success": true' in done.stdout

    try:
        group.wait(submitted, limit_s, poll_s=1.0)
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"the run was refused: {said[-2000:]}") from error


def _environment(home: Path) -> dict[str, str]:
    """Return the environment with Flower's commands on the path and a Flower home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    private = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    return {**os.environ, **private, "PATH": path}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--limit-s", type=float, default=900.0, help="end everything after this many seconds"
    )
    parser.add_argument(
        "--folder", type=Path, help="keep the app and the logs here (default: a temporary folder)"
    )
    options = parser.parse_args()
    leave_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="flower-stock-") as temporary:
        folder = options.folder or Path(temporary)
        print(measure(options.hospitals, options.rounds, folder, options.limit_s).to_json())


if __name__ == "__main__":
    main()
