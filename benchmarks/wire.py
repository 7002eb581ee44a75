"""Bytes between hospitals and coordinator beyond those of the weights, and peak memory.

    python benchmarks/wire.py

A counting proxy stands between SuperNodes and SuperLink. In a round every hospital needs the
weights twice (to train, to evaluate) and hands them in once: three times the model's size.
Hospitals answer at once, so only the federation is counted.
"""

import json
import logging
import socket
import tempfile
import threading
from pathlib import Path

from federation import measure
from measuring import machine

from polyclinic.system.processes import free_port, parse_address

RESULTS = Path(__file__).with_name("results")
MODELS = {"demo's U-Net (0.4 M parameters)": (402_000, 6, 5), "100 MB": (25_000_000, 3, 3)}


class Counter:
    """A TCP proxy on loopback that counts bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = 0
        self._listener: socket.socket | None = None

    def open(self, target: str) -> str:
        """Listen on a free port, pass everything on, and return the address to dial."""
        port = free_port()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(parse_address(target),), daemon=True).start()
        return f"127.0.0.1:{port}"

    def bytes(self) -> int:
        """Return the number of bytes so far, both ways."""
        with self._lock:
            return self._passed

    def close(self) -> None:
        """Stop listening."""
        if self._listener:
            self._listener.close()

    def _accept(self, target: tuple[str, int]) -> None:
        assert self._listener is not None
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            outer = socket.create_connection(target)
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 18):
                with self._lock:
                    self._passed += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def main() -> None:
    """Measure every model and write results/wire.json."""
    logging.getLogger("flwr").handlers.clear()
    found: dict[str, object] = {"machine": machine(), "models": {}}
    with tempfile.TemporaryDirectory(prefix="wire-") as folder:
        for number, (name, (parameters, hospitals, rounds)) in enumerate(MODELS.items()):
            counter = Counter()
            measured = measure(hospitals, rounds, parameters, Path(folder) / str(number), counter)
            counter.close()
            needed = 3 * 4 * parameters * hospitals
            row = {
                "hospitals": hospitals,
                "weights_mb": 4 * parameters / 1e6,
                "seconds_per_round": measured.seconds,
                "bytes_over_needed": [passed / needed for passed in measured.fleet_bytes],
                "peak_mb": measured.peak_mb,
            }
            found["models"][name] = row  # type: ignore[index]
            print(name, json.dumps(row, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "wire.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
