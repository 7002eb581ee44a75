"""Seconds of a round when hospitals answer at once: polyclinic, stock Flower, NVIDIA FLARE.

    python benchmarks/overhead.py [--rounds 5]

A round is training and evaluation; FLARE is its simulator. All are measured in one run on one
machine, on loopback without TLS, with a model of 10 000 float32 parameters; figures are medians
over the rounds after the first. For the limits of the comparison, see benchmarks/README.md.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
from pathlib import Path

from federation import measure
from measuring import machine
from peers import flower_stock, nvflare_simulator

HOSPITALS = (3, 6)
RESULTS = Path(__file__).with_name("results")


def ours(hospitals: int, rounds: int, folder: Path) -> dict[str, object]:
    """Return polyclinic's row."""
    seconds = measure(hospitals, rounds, 10_000, folder).seconds
    return {
        "system": "polyclinic",
        "hospitals": hospitals,
        "median_s": statistics.median(seconds),
        "seconds_per_round": seconds,
    }


def stock(hospitals: int, rounds: int, folder: Path) -> dict[str, object]:
    """Return the row of Flower with its defaults: subprocess isolation, its own FedAvg loop."""
    return vars(flower_stock.measure(hospitals, rounds, folder))


def flare(hospitals: int, rounds: int, folder: Path, *, own_validation: bool) -> dict[str, object]:
    """Return the row of NVIDIA FLARE's simulator.

    With `own_validation`, it evaluates the average in an exchange of its own, as Flower and
    polyclinic do.
    """
    env = Path("build/nvflare-env")
    try:
        return vars(
            nvflare_simulator.measure(hospitals, rounds, folder, env, own_validation=own_validation)
        )
    except nvflare_simulator.LeftOutError as reason:
        return {"system": "nvflare", "hospitals": hospitals, "left_out": str(reason)}


def main() -> None:
    """Measure everything and write results/overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    logging.getLogger("flwr").handlers.clear()
    found: dict[str, object] = {"machine": machine(), "rows": []}
    rows: list[dict[str, object]] = found["rows"]  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        for count in HOSPITALS:
            for name, run in {
                "polyclinic": ours,
                "flower": stock,
                "flare": lambda *a: flare(*a, own_validation=False),
                "flare-2": lambda *a: flare(*a, own_validation=True),
            }.items():
                rows.append(run(count, rounds, Path(folder) / f"{name}-{count}"))
                sys.stdout.write(json.dumps(rows[-1], default=str) + "\n")
                sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overhead.json").write_text(json.dumps(found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
