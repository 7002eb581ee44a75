"""Files of a coordinator: runs, its security folder, its ledger; and settings that people write."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from polyclinic.errors import (
    ConfigError,
    KeyInvalid,
    ModelInvalid,
    RunError,
)
from polyclinic.federation.metrics import FILE as METRICS_FILE
from polyclinic.federation.metrics import read_metrics
from polyclinic.federation.run_folder import SETTINGS, RunFolder, list_runs
from polyclinic.security.keys import load_public_key, public_text
from polyclinic.system.processes import parse_address
from polyclinic_server.enrolment.anchoring import _read as read_anchor
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.service.run_list import RunList
from polyclinic_server.service.task import RunTask
from polyclinic_strategies.evaluation.report.card import read_card, render_card
from polyclinic_strategies.refinement.offline import read_choice
from tests.fuzz import people
from tests.fuzz.hospital_files import ANCHORS, json_file
from tests.fuzz.mutation import as_json, as_lines, damaged
from tests.fuzz.reader import Reader

RUN = {
    "state": "finished",
    "name": "r",
    "arms": [{"name": "fedavg", "title": "FedAvg", "kind": ""}],
    "started": "2026-01-01T00:00:00+00:00",
    "versions": {"torch": "2.10"},
    "seed": 0,
    "rounds": 3,
    "labels": ["background", "tumour"],
    "hospitals": {"north": {"modality": "T1", "training": 4}},
    "comparison": {"arm": "fedavg", "entries": [{"name": "mean"}]},
    "address": "host:1",
}
EVENTS: list[Any] = [
    {"kind": "arm_start", "time": 1.7e9, "arm": "fedavg", "title": "FedAvg"},
    {"kind": "joined", "time": 1.7e9, "arm": "", "site": "north"},
    {"kind": "note", "time": 1.7e9, "arm": "fedavg", "text": "a note"},
]
ESTIMATE = {
    **{"value": 0.5, "low": 0.4, "high": 0.6, "n": 4, "positives": 4, "subjects": 4},
    **{"total": 2.0, "weight": 4.0, "total_squares": 1.5, "products": 2.0, "weight_squares": 4.0},
}
METRICS: list[Any] = [
    {
        **{"arm": "fedavg", "round": 1, "phase": "test", "site": "north", "num_examples": 4},
        **{"loss": 0.3, "score": 0.7, "scores": {"tumour": 0.7}, "time": 1.7e9, "seconds": 2.0},
    },
    {
        **{"arm": "fedavg", "round": 1, "phase": "test", "site": "south", "score": 0.5},
        **{"measures": {"tumour": {"dice": ESTIMATE}}, "comparisons": {"other": ESTIMATE}},
    },
    {"arm": "fedavg", "round": 1, "phase": "train", "site": "north", "missing": "away"},
]
MODEL = {
    **{"name": "m", "file": "m.safetensors", "digest": "a" * 64, "parameters": 5},
    **{"network": "unet", "version": "0.2.0", "trained": {"run": "r", "hospitals": 3}},
}
CARD = {
    **{"format": 1, "model": MODEL, "task": "segmentation", "labels": ["background", "tumour"]},
    **{"score_name": "Dice", "evaluated": "2026-01-01T00:00:00+00:00", "run": "r", "version": ""},
    **{"tolerance_mm": 2.0, "worst": "north", "gap": 0.1, "scores": {"north": 0.5}},
    **{"measures": {"north": {"tumour": {"dice": ESTIMATE}}}, "titles": {"dice": "Dice"}},
    **{"federated": {"tumour": {"dice": ESTIMATE}}, "limits": ["Descriptive."]},
}
CHOICE = {
    key: [{"recipe": {"rule": "softmax", "statistic": "histogram", "sharpness": 0.5}, "mean": 0.7}]
    for key in ("left_out", "own")
}


def _run_file(
    name: str,
    file: str,
    sound: bytes,
    draw: Any,
    read: Callable[[Path], object],
    *errors: type[BaseException],
) -> Reader:
    def read_file(content: bytes, folder: Path) -> None:
        run = folder / "runs" / "r"
        run.mkdir(parents=True, exist_ok=True)
        (run / file).write_bytes(content)
        read(run)

    return Reader(name, sound, draw, read_file, errors)


def _read_run(folder: Path) -> None:
    run = RunFolder(folder)
    found = list_runs(folder.parent)
    assert [each.name for each in found] == ["r"] and run.was_open in (True, False)
    state = run.state()
    assert state.state.isprintable() and all(arm.name.isprintable() for arm in state.arms)


def _read_metrics(folder: Path) -> None:
    found, _ = read_metrics(folder / METRICS_FILE)
    for metric in found:
        for table in metric.measures.values():
            assert all(each.weight > 0 for each in table.values())
        assert (metric.site.isprintable() and metric.score is None) or abs(metric.score) < 1e308


def _lines(lines: list[Any]) -> tuple[bytes, Callable[[Random], bytes]]:
    sound = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return sound, lambda random: as_lines(lines, random)


def _read_public_key(content: bytes, folder: Path) -> object:
    (folder / "hospital.pub").write_bytes(content)
    return load_public_key(folder / "hospital.pub")


def _draw_public_key(random: Random) -> bytes:
    if random.random() < 0.5:
        return damaged(PUBLIC, random)
    return damaged(people.public_pem_text(), random)


def _read_authority(folder: Path) -> None:
    (folder / "server.crt").write_text(people.pem(2))
    authority = Authority.open(folder)
    assert 0 < authority.port < 65536 and all(isinstance(host, str) for host in authority.hosts)
    assert parse_address(authority.address)


PUBLIC = f"{public_text(people.key(1).public_key())} hospital\n".encode()
ADDRESS = {"hosts": ["host.example", "10.0.0.1"], "port": 9092}
TASK = (
    RunTask(
        runs="/srv", name="r", settings=["rounds=1"], resume=False, host="h", port=1, security=None
    )
    .model_dump_json()
    .encode()
)


def _read_run_list(folder: Path) -> None:
    kept = RunList(folder / ".fleet")
    assert kept.folder_of("a").is_dir() and set(kept.in_hand()) <= {"a"}


READERS = (
    _run_file(
        "run",
        "run.json",
        json.dumps(RUN).encode(),
        lambda random: as_json(RUN, random),
        _read_run,
        RunError,
    ),
    _run_file(
        "run-settings",
        SETTINGS,
        b'[["rounds=3"]]',
        lambda random: as_json([["rounds=3"], ["a=1"]], random),
        lambda run: [text.upper() for each in RunFolder(run).settings() for text in each],
        RunError,
    ),
    _run_file("events", "events.jsonl", *_lines(EVENTS), lambda run: RunFolder(run).events()),
    _run_file("metrics", METRICS_FILE, *_lines(METRICS), _read_metrics),
    json_file(
        "choice", "refinement.json", CHOICE, lambda f: read_choice(f / "refinement.json"), RunError
    ),
    json_file(
        "model-card",
        "card.json",
        CARD,
        lambda folder: render_card(read_card(folder / "card.json")),
        ModelInvalid,
    ),
    json_file(
        "run-in-hand", ".fleet/runs/a.json", {"folder": "/srv", "goes_on": True}, _read_run_list
    ),
    Reader(
        "run-task",
        TASK,
        lambda random: as_json(json.loads(TASK), random),
        lambda content, _folder: RunTask.model_validate_json(content).deployment,
        (ValueError,),
    ),
    json_file("address", "address.json", ADDRESS, _read_authority, ConfigError),
    json_file(
        "anchor-file",
        "anchors.json",
        ANCHORS,
        lambda folder: read_anchor(folder / "anchors.json", "ledger 1"),
        ConfigError,
    ),
    Reader("public-key", PUBLIC, _draw_public_key, _read_public_key, (KeyInvalid,)),
)
