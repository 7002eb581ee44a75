"""Flower's SuperNode as a child process of the hospital: the one connection that leaves it (gRPC, outbound only).

Flower's SuperNode sleeps 3 s between two looks for a message and 0.5 s between two looks for its reply. The module's `time` is the
only hook: `_Clock` stands in for it, so that the pauses follow `polyclinic.processes.pause_s` (docs/decisions/flower-1.39.md).
"""

import time
from pathlib import Path

from polyclinic.processes import PROMPT, Child, end_with_parent, pause_s, python_module

IDLE_S = 3  # what Flower's loop asks for when there was no message


def supernode(server: str, runtime_port: int, folder: Path, secret: Path, node_config: dict[str, str]) -> Child:
    """A SuperNode that dials `server` and offers its work to a worker on loopback.

    Args:
        server: HOST:PORT of the coordinator's Fleet API.
        runtime_port: Loopback port of the Runtime API.
        folder: Keeps its log.
        secret: File with the secret that the worker must know.
        node_config: What the ClientApp is told about this hospital; stays on this machine.
    """
    settings = " ".join(f"{key}={_quote(value)}" for key, value in node_config.items())
    command = python_module(
        "client.supernode", "--insecure", "--superlink", server, "--isolation", "process", "--host", "127.0.0.1",
        "--port", str(runtime_port), "--superexec-auth-secret-file", str(secret), "--node-config", settings,
    )  # fmt: skip
    return Child("Flower's SuperNode", command, folder / "supernode.log", {"FLWR_HOME": str(folder / "flwr")})


def _quote(value: str) -> str:
    """A TOML string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Clock:
    """Stands in for the module `time` inside Flower's SuperNode loop."""

    def __init__(self) -> None:
        self._since = time.monotonic()  # of the last change between waiting for a message and waiting for its reply
        self._idle = True

    def sleep(self, seconds: float) -> None:
        """Sleep as long as our pace says; Flower's own pause is the upper bound."""
        idle = seconds >= IDLE_S
        if idle != self._idle:
            self._idle, self._since = idle, time.monotonic()
        time.sleep(pause_s(time.monotonic() - self._since, 0.08, seconds))


def main() -> None:
    """`python -m client.supernode ARGS`: Flower's SuperNode at our pace, which ends when the hospital's client is gone."""
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    pull_objects.__kwdefaults__.update(PROMPT)
    start_client_internal.time = _Clock()  # type: ignore[attr-defined]
    end_with_parent()
    flower_supernode()


if __name__ == "__main__":
    main()
