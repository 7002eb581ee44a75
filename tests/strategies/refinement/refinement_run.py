"""A refinement run's folder, as the coordinator leaves it.

The numbers are chosen so that tables can be computed by hand. a, b and c contribute; x, y and z
join later with a description alone; b hands in again; then c leaves.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

START = 1_700_000_000.0
ARM, CENTRE = "refinement", "centre"
TRAINED, LATER = ("a", "b", "c"), ("x", "y", "z")
TITLES = {
    "local": "local only",
    "fedavg": "FedAvg",
    CENTRE: "Merging (mean)",
    ARM: "Refinement",
    "pooled": "pooled",
}
TESTS: Mapping[str, Sequence[float | None]] = {  # of a, b, c, x, y, z
    "local": (0.8, 0.7, 0.6, None, None, None),
    "fedavg": (0.7, 0.6, 0.5, 0.4, 0.5, 0.6),
    CENTRE: (0.72, 0.62, 0.52, 0.45, 0.5, 0.61),
    ARM: (0.82, 0.72, 0.62, 0.7, 0.6, 0.59),
    "pooled": (0.85, 0.75, 0.65, 0.75, 0.7, 0.65),
    "single.a": (0.9, 0.1, 0.1, 0.1, 0.1, 0.1),
}
X_SHARES = {"a": 0.62, "b": 0.3, "c": 0.08}
THIRDS = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
FAR_AWAY = "nobody is near: b, the nearest, is 4.1 medians away, the limit is 3"


def at(moment: float, kind: str, **rest: Any) -> dict[str, Any]:
    return {"time": START + moment, "arm": ARM, "kind": kind, **rest}


def refined(
    moment: float, site: str, why: str, coefficients: Mapping[str, float], **rest: Any
) -> dict[str, Any]:
    told = {
        "recipe": "softmax by average image, sharpness 0.2",
        "nearest": "",
        "distance": None,
        "fallback": "",
        **rest,
    }
    return at(moment, "refined", site=site, why=why, coefficients=coefficients, **told)


def moved(
    moment: float, site: str, why: str, own: Mapping[str, int], **others: Mapping[str, int]
) -> dict[str, Any]:
    """Everybody else's regular question has 100 bytes, if nothing else is said."""
    everybody = {
        **{name: {"query.collect": 100, "query.refined": 0} for name in TRAINED},
        **others,
        site: own,
    }
    return at(moment, "traffic", site=site, why=why, bytes=everybody)


def join(
    moment: float, site: str, subjects: int, coefficients: Mapping[str, float], **rest: Any
) -> list[dict[str, Any]]:
    return [
        at(
            moment,
            "described",
            site=site,
            subjects=subjects,
            statistic="average_image",
            seconds=0.1,
        ),
        refined(moment, site, "join", coefficients, **rest),
        at(moment + 1, "delivered", site=site, why="join", seconds=0.5),
        moved(moment + 1, site, "join", {"query.describe": 2000, "query.refined": 40_000}),
    ]


def events() -> list[dict[str, Any]]:
    contributed = [
        at(5, "contribution", site=site, digest=site * 64, num_examples=4, number=1)
        for site in TRAINED
    ]
    chosen = [refined(10, site, "choice", THIRDS) for site in TRAINED]
    delivered = [at(11, "delivered", site=site, why="choice", seconds=None) for site in TRAINED]
    return [
        at(0, "arm_start", title="Refinement", rounds=2, offset=0, expected=3),
        *contributed,
        *chosen,
        *delivered,
        *join(20, "x", 5, X_SHARES, nearest="a", distance=0.4),
        *join(30, "y", 1, {"b": 1.0}, nearest="b", distance=1.5),
        *join(40, "z", 7, THIRDS, nearest="b", distance=4.1, fallback=FAR_AWAY),
        at(50, "contribution", site="b", digest="d" * 64, num_examples=6, number=4),
        at(50, "recalculated", why="arrival", sites=["a", "b", "x"], gone=[], seconds=0.02),
        refined(50, "b", "update", {"a": 0.4, "b": 0.6}, nearest="b", distance=0.0),
        at(51, "delivered", site="b", why="update", seconds=2.25),
        moved(51, "b", "update", {"query.collect": 41_000, "query.refined": 40_000}),
        at(60, "recalculated", why="withdrawal", sites=["a", "x", "z"], gone=["c"], seconds=0.05),
        moved(
            61,
            "c",
            "withdrawal",
            {"query.collect": 100, "query.refined": 0},
            x={"query.describe": 0},
        ),
        at(62, "arm_end"),
    ]


def record() -> dict[str, Any]:
    return {
        "statistic": "average_image",
        "recipe": "softmax by average image, sharpness 0.2",
        "sites": ["a", "b", "x", "y", "z"],
        "contributors": ["a", "b"],
        "distances": [
            [0.0, 1.0, 0.4, 2.0, 5.0],
            [1.0, 0.0, 1.2, 1.5, 4.1],
            [0.4, 1.2, 0.0, 1.8, 4.6],
            [2.0, 1.5, 1.8, 0.0, None],
            [5.0, 4.1, 4.6, None, 0.0],
        ],
        "coefficients": {
            "a": {"b": 1.0},
            "b": {"a": 1.0},
            "x": {"a": 0.9, "b": 0.1},
            "y": {"b": 1.0},
            "z": {"a": 0.5, "b": 0.5},
        },
        "fallback": {"z": FAR_AWAY},
        "choice": {
            "left_out": [
                {"recipe": "softmax by average image, sharpness 0.2", "mean": 0.61},
                *(
                    {"recipe": f"softmax by histogram, sharpness 0.{n}", "mean": 0.6 - n / 100}
                    for n in range(1, 7)
                ),
                {"recipe": "uniform mean", "mean": 0.5},
            ],
            "own": [
                {"recipe": "uniform mean", "mean": 0.66},
                {"recipe": "nearest by average image", "mean": 0.64},
            ],
        },
        "newcomers": ["x", "y", "z"],
    }


def metric(
    arm: str, site: str, phase: str = "test", round_: int = 2, **rest: Any
) -> dict[str, Any]:
    return {
        "time": START,
        "arm": arm,
        "round": round_,
        "phase": phase,
        "site": site,
        "num_examples": 2,
        **rest,
    }


def scored(tests: Mapping[str, Sequence[float | None]] = TESTS) -> list[dict[str, Any]]:
    pairs = [
        (arm, site, score)
        for arm, row in tests.items()
        for site, score in zip(TRAINED + LATER, row, strict=True)
    ]
    return [
        metric(arm, site, score=score, scores={"CSF": score, "grey matter": score})
        for arm, site, score in pairs
        if score is not None
    ]


def validations() -> list[dict[str, Any]]:
    """Of the base's round, and of the ninth published model."""
    trained = [metric("refinement.base", site, "train", 1, loss=0.5) for site in TRAINED]
    averaged = [
        metric("fedavg", site, phase, n, loss=0.5, score=0.3)
        for site in TRAINED
        for phase in ("train", "validate")
        for n in (1, 2)
    ]
    return [*trained, *averaged, *(metric(ARM, site, "validate", 9, score=0.2) for site in TRAINED)]


def hospitals() -> dict[str, Any]:
    trained = {
        site: {"modality": "T1", "training": 4, "validation": 2, "test": 2} for site in TRAINED
    }
    return {
        **{
            site: {"modality": "T2", "training": 0, "validation": 0, "test": 5, "describes": True}
            for site in LATER
        },
        **trained,
    }


def write_refinement_run(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    happened: Sequence[Mapping[str, Any]] | None = None,
    **changes: Any,
) -> Path:
    run = {
        "name": "refinement",
        "started": "2023-11-14T22:13:20+00:00",
        "finished": "2023-11-14T22:14:22+00:00",
        "state": "finished",
        "reason": None,
        "versions": {"polyclinic": "0.1.0"},
        "seed": 0,
        "rounds": 2,
        "arms": [{"name": name, "title": title} for name, title in TITLES.items()],
        "task": "segmentation",
        "score_name": "Dice",
        "labels": ["background", "CSF", "grey matter"],
        "hospitals": hospitals(),
        "refinement": record(),
    }
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run | changes))
    lines = [*validations(), *scored()] if metrics is None else metrics
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in (events() if happened is None else happened))
    )
    return folder


def draw_pictures(run: Path, *sites: str) -> None:
    for site in sites:
        folder = run / "pictures" / site
        folder.mkdir(parents=True)
        for number, name in enumerate(("image", "truth", *TITLES)):
            Image.new("L", (8, 8), 20 * number).save(folder / f"{name}.png")
