"""Seconds per round of NVIDIA FLARE's simulator with a client that does nothing.

    python benchmarks/peers/nvflare_simulator.py --hospitals 3 --rounds 3
    python benchmarks/peers/nvflare_simulator.py --hospitals 3 --rounds 3 --own-validation

This is the cost of the federation alone. FLARE is installed into an environment of its own
(`--env`), once. Its FedAvg controller, the synchronous workflow that FLARE recommends, runs as a
job in its simulator with the simulator's defaults: one client process per hospital, which runs
during the whole run, all on loopback and without TLS. A hospital is a bare `Executor`, FLARE's
shortest way from a task to a reply: it returns the 10 arrays of 1000 float32 that it received, with
one training step and one metric. The server records the time before the first round, once every
client process has answered, and at the end of each round, after the average was saved (FLARE saves
it each round; a small file here).

Two kinds of rounds can be measured:

- By default FLARE's own idiom, one exchange: a hospital validates the model that it receives and
  trains it within the same task `train`. This is less than Flower's round, in which the average is
  sent out again to be evaluated.
- With `--own-validation` the same work as Flower's round, two exchanges: `train`, then the average
  as `validate`.

One default dominates both: after each task a client waits for the server's
`task_request_interval`, 2 s, before it asks for the next (`--request-interval-s` sets it for
comparison). The controller checks every 0.5 s whether all replies are in. So an exchange takes 2 to
2.5 s, whatever the number of hospitals, as long as the cores are idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # run as a script, nothing installed

from benchmarks.peers.processes import (
    ProcessGroup,
    Result,
    leave_on_sigterm,
    read_stamps,
    result_from_stamps,
)

ENVIRONMENT = Path("build/nvflare-env")
FEDERATION = Path(__file__).with_name("nvflare_noop.py")


class LeftOutError(RuntimeError):
    """NVIDIA FLARE could not be installed or run here; the message gives the reason."""


def measure(
    hospitals: int,
    rounds: int,
    folder: Path,
    env: Path = ENVIRONMENT,
    own_validation: bool = False,
    request_interval_s: float | None = None,
    limit_s: float = 600.0,
) -> Result:
    """Run a federation and return its seconds per round.

    Args:
        hospitals: Number of clients.
        rounds: Number of rounds, each with training and validation.
        folder: Where the simulator's workspace and the log go; a path without spaces.
        env: The virtual environment of FLARE; made when it is not there.
        own_validation: Whether the average is validated in an exchange of its own, as in Flower's
            round.
        request_interval_s: Seconds a client waits after a task; `None` is FLARE's default of 2.
        limit_s: The run must end within this time.

    Raises:
        LeftOutError: FLARE could not be installed, or its run failed or took longer than `limit_s`.
    """
    folder = folder.resolve()
    python, version = install(env)
    stamps = folder / "stamps.txt"
    command = [str(python), str(FEDERATION), str(folder / "workspace"), str(stamps)]
    command += ["--hospitals", str(hospitals), "--rounds", str(rounds)]
    command += ["--own-validation"] if own_validation else []
    command += (
        ["--request-interval-s", str(request_interval_s)] if request_interval_s is not None else []
    )
    with ProcessGroup(folder / "logs") as group:
        group.start("simulator", command, os.environ, folder)
        try:
            group.wait(lambda: len(read_stamps(stamps)) > rounds, limit_s)
        except (RuntimeError, TimeoutError) as error:
            print(error, file=sys.stderr)
            reason = (
                f"was not done after {limit_s:.0f} s"
                if isinstance(error, TimeoutError)
                else "ended early"
            )
            raise LeftOutError(f"the simulator's run {reason}") from error
    return result_from_stamps(
        _system(own_validation, request_interval_s), version, hospitals, read_stamps(stamps)
    )


def install(env: Path, limit_s: float = 900.0) -> tuple[Path, str]:
    """Return the environment's Python and its version of FLARE; install both if they are missing.

    Raises:
        LeftOutError: The installation failed or took longer than `limit_s`.
    """
    python = env.resolve() / "bin" / "python"
    if (version := _version(python)) is not None:
        return python, version
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(env.resolve())],
            [str(python), "-m", "pip", "install", "--quiet", "nvflare"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit_s)
    except subprocess.CalledProcessError as error:
        print(error.stderr[-2000:], file=sys.stderr)
        raise LeftOutError(
            f"nvflare could not be installed: pip or venv exited with {error.returncode}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LeftOutError(f"nvflare was not installed after {limit_s:.0f} s") from error
    if (version := _version(python)) is None:
        raise LeftOutError("nvflare was installed but cannot be imported")
    return python, version


def _version(python: Path) -> str | None:
    if not python.exists():
        return None
    code = (
        "import importlib.metadata, nvflare.job_config.api; "
        "print(importlib.metadata.version('nvflare'))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 else None


def _system(own_validation: bool, request_interval_s: float | None) -> str:
    settings = ["own validation"] if own_validation else []
    settings += (
        [f"request interval {request_interval_s:g} s"] if request_interval_s is not None else []
    )
    return f"nvflare ({', '.join(settings)})" if settings else "nvflare"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--own-validation", action="store_true", help="validate the average in its own exchange"
    )
    parser.add_argument(
        "--request-interval-s", type=float, help="FLARE's task_request_interval (its default: 2)"
    )
    parser.add_argument(
        "--env", type=Path, default=ENVIRONMENT, help="virtual environment of FLARE, made once"
    )
    parser.add_argument(
        "--limit-s", type=float, default=600.0, help="end everything after this many seconds"
    )
    parser.add_argument(
        "--folder", type=Path, help="keep the workspace and the log here (default: temporary)"
    )
    options = parser.parse_args()
    leave_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="nvflare-") as temporary:
        folder = options.folder or Path(temporary)
        settings = (
            options.env,
            options.own_validation,
            options.request_interval_s,
            options.limit_s,
        )
        try:
            print(measure(options.hospitals, options.rounds, folder, *settings).to_json())
        except LeftOutError as error:
            print(json.dumps({"system": "nvflare", "left_out": str(error)}))


if __name__ == "__main__":
    main()
