"""Flower's SuperNode as a child process of the hospital: the one connection that leaves it (gRPC, outbound only).

Flower's SuperNode sleeps 3 s between two looks for a message and 0.5 s between two looks for its reply. The module's
`time` is the only hook: `_Clock` stands in for it, so that the pauses follow `polyclinic.processes.pause_s`
(docs/decisions/flower-1.39.md).
"""

import time

from polyclinic.processes import PROMPT, end_with_parent, pause_s

IDLE_S = 3  # what Flower's loop asks for when there was no message


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
    """`python -m client.supernode ARGS`: Flower's SuperNode at our pace; it ends when the hospital's client is gone."""
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    pull_objects.__kwdefaults__.update(PROMPT)  # type: ignore[union-attr]
    start_client_internal.time = _Clock()  # type: ignore[attr-defined, assignment]
    end_with_parent()
    flower_supernode()


if __name__ == "__main__":
    main()
