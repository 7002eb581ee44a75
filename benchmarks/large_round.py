"""A round (train + evaluate) of a large model: seconds beside a bare stream's, and memory.

    python benchmarks/large_round.py [--hospitals 3] [--megabytes 200]
    python benchmarks/large_round.py --hospitals 8 --megabytes 800

All processes are real, with TLS and keys; only the hospitals' ClientApp answers at once. The
seconds hold everything: disk, digests, the hospitals' reading, Flower's averaging. In a round each
hospital needs the weights twice and gives them back once. A bare gRPC stream over TLS carries the
same model between two processes before and after; its rates say how long the same bytes would take.
Memory is anonymous (RssAnon): what lies in mapped files can leave at any time.
"""

import argparse
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
from bare_stream import BareStream
from federation import measure
from measuring import machine

from polyclinic_demos.local_pki import local_authority
from polyclinic_server.enrolment.authority import Authority

RESULTS = Path(__file__).with_name("results")
BARE_MB = 200  # that the bare stream carries each way


def bare_rates(authority: Authority) -> tuple[float, float]:
    """Return a bare stream's MB/s down and up."""
    data = np.random.default_rng(1).bytes(BARE_MB * 1_000_000)
    with BareStream(authority, data) as stream:
        stream.seconds()
        down, up = stream.seconds()
    return BARE_MB / down, BARE_MB / up


def main() -> None:
    """Measure, print, and write results/large_round.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=200)
    asked = parser.parse_args()
    logging.getLogger("flwr").handlers.clear()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends all processes
    found: dict[str, object] = {"machine": machine(), **vars(asked)}
    size, count = asked.megabytes, asked.hospitals
    with tempfile.TemporaryDirectory(prefix="large-round-") as name:
        authority = local_authority(Path(name) / "bare", 1)
        rates = [bare_rates(authority)]
        measured = measure(count, 1, size * 250_000, Path(name) / "round")
        rates.append(bare_rates(authority))
    down, up = (sum(each) / 2 for each in zip(*rates, strict=True))
    bare_s = 2 * count * size / down + count * size / up
    (seconds,) = measured.seconds
    models = {process: peak / size for process, peak in measured.peak_mb.items()}
    found |= {
        "seconds": seconds,
        "contents_mb": 3 * count * size,
        "bare_mb_per_s": {"down": down, "up": up},
        "bare_seconds": bare_s,
        "ratio_to_bare": seconds / bare_s,
        "anonymous_idle_mb": measured.idle_mb,
        "anonymous_peak_mb": measured.peak_mb,
        "anonymous_peak_models": models,
        "load_after": psutil.getloadavg()[0],
    }
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"large_round-{count}x{size}.json"
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
