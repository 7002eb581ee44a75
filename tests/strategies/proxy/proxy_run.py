"""What the training of a proxy leaves for its report.

The numbers are made up, and chosen so that sentences can be checked by hand.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

FIRST, SECOND, THIRD = (
    "Siamese, proxy and proxy",
    "nearest original after registration",
    "histogram and texture",
)
AUCS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "originals": {FIRST: (0.98, 0.99, 0.97), SECOND: (0.9, 0.92, 0.91), THIRD: (0.7, 0.7, 0.7)},
    "random": {FIRST: (0.8, 0.84, 0.82), SECOND: (0.7, 0.72, 0.71), THIRD: (0.69, 0.68, 0.7)},
    "learned": {FIRST: (0.62, 0.66, 0.64), SECOND: (0.55, 0.51, 0.53), THIRD: (0.6, 0.68, 0.61)},
}
DIRECT = {"CSF": 0.8, "grey matter": 0.85, "white matter": 0.9, "mean": 0.85}
THROUGH = {"CSF": 0.78, "grey matter": 0.84, "white matter": 0.9, "mean": 0.84}


def attempt(auc: float) -> dict[str, Any]:
    return {
        "auc": auc,
        "tpr": 0.12,
        "rank1": 0.25,
        "low": auc - 0.08,
        "high": min(auc + 0.08, 1.0),
        "people": 32,
    }


def attackers(aucs: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: [attempt(auc) for auc in each] for name, each in aucs.items()}


def arm(
    name: str, title: str, strength_mm: float, dice: Any = None, **changes: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "strength_mm": strength_mm,
        "largest_mm": 2.5 * strength_mm,
        "smallest_jacobian": 0.31,
        "folded": 0.0,
        "round_trip": 0.985,
        "dice": dice,
        "attackers": attackers(AUCS[name]),
        **changes,
    }


def complete() -> dict[str, Any]:
    point = ("arm", "strength_mm", "round_trip", "auc")
    curve = [
        ("random", 2.0, 0.995, 0.93),
        ("random", 8.0, 0.95, 0.66),
        ("random", 4.0, 0.985, 0.82),
        ("learned", 4.1, 0.985, 0.64),
    ]
    curve.append(("originals", 0.0, 1.0, 0.98))
    return {
        "format": 1,
        "version": "0.1.0",
        "name": "people who came three times",
        "date": 1_700_000_000.0,
        "seed": 0,
        "seconds": 5400.0,
        "people": {"training": 24, "attackers": 32, "test": 32},
        "visits": 3,
        "labels": ["background", "CSF", "grey matter", "white matter"],
        "reference": "ab" * 32,
        "shape": [160, 192, 160],
        "direct": {"dice": DIRECT, "cases": 8},
        "arms": [
            arm("originals", "originals", 0.0, DIRECT, round_trip=1.0, smallest_jacobian=1.0),
            arm("random", "random field", 4.0),
            arm("learned", "learned field", 4.1, THROUGH),
        ],
        "curve": [dict(zip(point, each, strict=True)) for each in curve],
        "extra": [
            {
                "title": "lesions",
                "note": "Everybody has lesions of their own.",
                "attackers": attackers({SECOND: (0.9, 0.95)}),
            }
        ],
        "losses": [
            {
                "step": step,
                "segmentation": 60 / (step + 60),
                "adversary": 1 + step / 1000,
                "adversarial": 0.2,
                "stranger": 0.01,
                "odd": 1.0,
            }
            for step in range(25, 801, 25)
        ],
        "pictures": [{"file": "pictures/a.png", "title": "the first person"}],
    }


def write_proxy_run(folder: Path, **changes: Any) -> Path:
    """Change fields: a change to None is a null, a change to ... leaves the field out."""
    run = {name: value for name, value in {**complete(), **changes}.items() if value is not ...}
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 16), 90).save(folder / "pictures" / "a.png")
    (folder / "proxy.json").write_text(json.dumps(run))
    return folder


def learned(**changes: Any) -> list[dict[str, Any]]:
    """Return the arms, with another learned one."""
    *others, last = complete()["arms"]
    return [*others, {**last, **changes}]
