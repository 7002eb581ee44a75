"""A run's folder with a merging arm, as the coordinator leaves it.

The numbers are chosen so that tables can be computed by hand.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SITES = ("a", "b", "c")
START = 1_700_000_000.0
ARM = "merging-mean"
TESTS: Mapping[str, Sequence[float]] = {
    ARM: (0.7, 0.6, 0.8),
    "fedavg": (0.72, 0.62, 0.82),
    "local": (0.8, 0.7, 0.9),
    "pooled": (0.8, 0.7, 0.9),
    "ties": (0.6, 0.6, 0.6),
    "single.a": (0.8, 0.5, 0.5),
    "single.b": (0.4, 0.7, 0.4),
    "single.c": (0.3, 0.2, 0.9),
    "random": (0.1, 0.1, 0.1),
    f"{ARM}.restored": (0.75, 0.65, 0.85),
    "single.a.restored": (0.8, 0.6, 0.6),
    "single.b.restored": (0.8, 0.7, 0.8),
    "single.c.restored": (0.4, 0.4, 0.9),
    "random.restored": (0.2, 0.2, 0.2),
}


def arms(*names: str) -> list[dict[str, str]]:
    titles = {"fedavg": "FedAvg", "local": "local only", "pooled": "pooled"}
    return [
        {"name": n, "title": titles[n]}
        if n in titles
        else {"name": n, "title": "Merging (mean)", "kind": "merging"}
        for n in names
    ]


def entries(sites: Sequence[str] = SITES) -> list[dict[str, str]]:
    alone = [
        {"name": f"single.{site}", "title": f"{site} alone", "group": "single", "note": ""}
        for site in sites
    ]
    random = {
        "name": "random",
        "title": "random vector",
        "group": "control",
        "note": "the same length, a random direction",
    }
    merged = {"name": ARM, "title": "Merging (mean)", "group": "restored", "note": ""}
    restored = [
        {
            **each,
            "name": f"{each['name']}.restored",
            "group": "restored",
            "note": "10 labelled steps",
        }
        for each in (merged, random, *alone)
    ]
    return [
        {"name": "ties", "title": "TIES", "group": "rule", "note": "scale 0.4"},
        *alone,
        random,
        *restored,
    ]


def at(minutes: float, kind: str, **rest: Any) -> dict[str, Any]:
    return {"time": START + 60 * minutes, "arm": ARM, "kind": kind, **rest}


def published(
    minutes: float, number: int, sites: Sequence[str], why: str = "arrival"
) -> dict[str, Any]:
    recipe = {"rule": "Mean", "parameters": {"scale": 1.0, "fraction_bits": 40}, "why": why}
    return at(minutes, "published", number=number, digest="d" * 64, sites=list(sites), **recipe)


def events() -> list[dict[str, Any]]:
    refused = {
        "error": "NotFinite",
        "reason": "c: conv.weight contains NaN or Inf: training diverged.",
    }
    return [
        at(0, "arm_start", title="Merging (mean)", rounds=0, offset=0, expected=3),
        at(1, "joined", site="a", modality="T1"),
        at(2, "joined", site="b", modality="T2"),
        at(
            5,
            "contribution",
            site="a",
            digest="a" * 64,
            number=1,
            num_examples=4,
            staleness=0,
            norm=1.0,
        ),
        published(5, 1, "a"),
        at(6, "left", site="a"),
        at(8, "duplicate", site="b", digest="b" * 64),
        at(
            9,
            "contribution",
            site="b",
            digest="b" * 64,
            number=2,
            num_examples=4,
            staleness=0,
            norm=1.0,
        ),
        published(9, 2, "ab"),
        at(10, "arm_start", title="Merging (mean)", rounds=0, offset=0, expected=3),
        at(10, "resumed"),
        published(10, 2, "ab"),
        at(11, "joined", site="c", modality="PD"),
        at(12, "contribution_refused", site="c", digest="c" * 64, **refused),
        at(
            14,
            "contribution",
            site="c",
            digest="e" * 64,
            number=3,
            num_examples=4,
            staleness=0,
            norm=1.0,
        ),
        published(14, 3, "abc"),
        at(16, "withdrawn", site="b", reason="consent was withdrawn"),
        published(16, 4, "ac", why="withdrawal"),
        at(20, "arm_end"),
    ]


def validations() -> list[dict[str, Any]]:
    scores = {
        1: {"a": 0.5, "b": 0.4},
        2: dict(zip("abc", (0.5, 0.5, 0.5), strict=True)),
        3: dict(zip("abc", (0.7, 0.6, 0.8), strict=True)),
    }
    return [
        metric(ARM, site, "validate", n, score=s)
        for n, row in scores.items()
        for site, s in row.items()
    ]


def metric(
    arm: str, site: str, phase: str = "test", round_: int = 0, **rest: Any
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


def scored(
    tested: Mapping[str, Sequence[float]] = TESTS, sites: Sequence[str] = SITES
) -> list[dict[str, Any]]:
    return [
        metric(name, site, score=score)
        for name, row in tested.items()
        for site, score in zip(sites, row, strict=True)
    ]


def write_merging_run(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    happened: Sequence[Mapping[str, Any]] | None = None,
    sites: Sequence[str] = SITES,
    **changes: Any,
) -> Path:
    run = {
        "name": "merging",
        "started": "2023-11-14T22:13:20+00:00",
        "finished": "2023-11-14T22:33:20+00:00",
        "state": "finished",
        "reason": None,
        "versions": {"polyclinic": "0.1.0"},
        "seed": 0,
        "rounds": 2,
        "arms": arms(ARM, "fedavg", "local", "pooled"),
        "task": "segmentation",
        "score_name": "Dice",
        "labels": ["background", "CSF"],
        "hospitals": {
            site: {"modality": "T1", "training": 4, "validation": 2, "test": 2} for site in sites
        },
        "comparison": {"arm": ARM, "entries": entries(sites)},
    }
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(
        json.dumps({key: value for key, value in (run | changes).items() if value != "leave out"})
    )
    lines = [*validations(), *scored()] if metrics is None else metrics
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in (events() if happened is None else happened))
    )
    return folder
