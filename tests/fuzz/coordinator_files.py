"""Files of a coordinator: runs, its security folder, its ledger; and settings that people write."""

import json
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from polyclinic.config.folders import targets_in
from polyclinic.config.jobs import job_tree, load_job
from polyclinic.config.overrides import read_override
from polyclinic.config.targets import allowed_targets
from polyclinic.errors import (
    AddressInvalid,
    ConfigError,
    KeyInvalid,
    LedgerError,
    LimitExceeded,
    RunError,
)
from polyclinic.federation.metrics import FILE as METRICS_FILE
from polyclinic.federation.metrics import read_metrics
from polyclinic.federation.run_folder import SETTINGS, RunFolder, list_runs
from polyclinic.security.keys import load_public_key, public_text
from polyclinic.store.journal import FILE as LEDGER_FILE
from polyclinic.store.journal import line_hash, parse_url
from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import parse_address
from polyclinic_client.site.limits import Limits
from polyclinic_server.cli.ledger_tables import _job_of, _summary
from polyclinic_server.enrolment.anchoring import _read as read_anchor
from polyclinic_server.enrolment.authority import Authority
from polyclinic_strategies.refinement.offline import read_choice
from tests.fuzz import people
from tests.fuzz.hospital_files import ANCHORS, json_file
from tests.fuzz.messages import NAMES, ORDER
from tests.fuzz.mutation import TEXTS, as_json, as_lines, changed, damaged, fault
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
METRICS: list[Any] = [
    {
        **{"arm": "fedavg", "round": 1, "phase": "test", "site": "north", "num_examples": 4},
        **{"loss": 0.3, "score": 0.7, "scores": {"tumour": 0.7}, "time": 1.7e9, "seconds": 2.0},
    },
    {"arm": "fedavg", "round": 1, "phase": "train", "site": "north", "missing": "away"},
]
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


# ---- the ledger


@cache
def _journal() -> tuple[bytes, tuple[dict[str, Any], ...]]:
    """Return a ledger's file, and the lines of its journal."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with Ledger.open(folder) as ledger:
            state = {"a": torch.zeros(3)}
            ledger.add_base(state, json.dumps({"names": NAMES, "settings": {}}))
            ledger.publish({"a": torch.ones(3)}, {"rule": "mean", "parameters": {}}, [])
        with sqlite3.connect(folder / LEDGER_FILE) as plain:
            plain.execute("PRAGMA journal_mode=DELETE")
            plain.row_factory = sqlite3.Row
            lines = [dict(row) for row in plain.execute("SELECT * FROM journal")]
        plain.close()
        return (folder / LEDGER_FILE).read_bytes(), tuple(lines)


def _draw_journal(random: Random) -> bytes:
    """Write the file with other lines; half of them have a sound chain of hashes."""
    content, lines = _journal()
    if random.random() < 0.2:
        return damaged(content, random)
    others = [dict(line) for line in lines]
    chosen = random.choice(others)
    if random.random() < 0.7:
        chosen["body"] = as_json(json.loads(chosen["body"]), random).decode("utf-8", "replace")
    else:
        column = random.choice(("time", "kind", "site", "subject", "sequence"))
        chosen[column] = fault(random)
    plain = sqlite3.connect(":memory:")
    plain.deserialize(content)
    try:
        for (trigger,) in plain.execute(
            "SELECT name FROM sqlite_master WHERE type='trigger'"
        ).fetchall():
            plain.execute(f"DROP TRIGGER {trigger}")
        plain.execute("DELETE FROM journal")
        _insert(plain, others, chained=random.random() < 0.5)
        plain.commit()
        return plain.serialize()
    finally:
        plain.close()


def _insert(plain: sqlite3.Connection, lines: list[dict[str, Any]], *, chained: bool) -> None:
    previous = "0" * 64
    for line in lines:
        stored = {key: _storable(value) for key, value in line.items()}
        if chained:
            stored["previous"] = previous
            stored["hash"] = previous = line_hash(stored)
        marks = ", ".join("?" * len(stored))
        try:
            plain.execute(f"INSERT OR REPLACE INTO journal VALUES ({marks})", list(stored.values()))
        except sqlite3.Error:
            continue


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**63):
        return value
    return str(value)


def _read_ledger(content: bytes, folder: Path) -> None:
    for old in folder.glob(f"{LEDGER_FILE}*"):
        old.unlink()
    (folder / LEDGER_FILE).write_bytes(content)
    with Ledger.open(folder, create=False) as ledger:
        for line in ledger.history():
            assert _summary(line) is not None
        ledger.publications(), ledger.entries(), ledger.active(), ledger.base_notes()
        assert ledger.identity
        for digest in ledger.bases():
            _job_of(ledger, digest)
        ledger.verify()


# ---- settings


def _draw_override(random: Random) -> bytes:
    text = random.choice(OVERRIDES)
    kind = random.randrange(4)
    if kind == 0:
        key = text.partition("=")[0]
        value = random.choice(TEXTS) if random.random() < 0.5 else str(fault(random))
        return f"{key}={value}".encode("utf-8", "surrogatepass")[:3000]
    if kind == 1:
        place = random.randrange(len(text))
        inserted = random.choice("=~'\"\\[]{}(),:$+@%#\n\0 ") * random.choice((1, 1, 2, 200))
        return (text[:place] + inserted + text[place:]).encode()
    return damaged(text.encode(), random)


def _read_override(content: bytes, folder: Path) -> None:
    text, found = read_override(content.decode("utf-8", "surrogateescape"))
    assert isinstance(text, str) and not found.is_sweep_override()


def _read_settings(content: bytes, folder: Path) -> None:
    """Read the settings of an order: no target comes of them that conf/ does not name."""
    settings = json.loads(content)
    job = load_job(NAMES, settings)
    Limits().check(ORDER, job)
    found = list(targets_in(job_tree(job)))
    assert found == _honest_targets() and set(found) <= allowed_targets()


@cache
def _honest_targets() -> list[str]:
    return list(targets_in(job_tree(load_job(NAMES, {}))))


def _draw_settings(random: Random) -> bytes:
    found = changed(dict(random.sample(sorted(SET.items()), 2)), random, 2)
    if random.random() < 0.4:
        key = ".".join(random.choice(PIECES) for _ in range(random.randint(1, 4)))
        found = {key: fault(random)}
    return json.dumps(found if isinstance(found, dict) else {"model": found}).encode()


def _read_text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda content, folder: read(content.decode("utf-8", "replace"))


SET: dict[str, Any] = {
    "training.epochs": 2,
    "model.channels": [8, 16],
    "data.patch": [32, 32],
    "training.batch_size": 2,
    "data.labels": ["background", "tumour"],
    "training.learning_rate": 0.1,
    "model.dropout": 0.1,
}
PIECES = (
    *("model", "data", "training", "optimizer", "loss", "intensity", "augment", "channels", "norm"),
    *("patch", "lr", "epochs", "0", "_target_", "[_target_]", "[0]", "[_args_]", "", "a" * 300),
)
OVERRIDES = (
    *("rounds=3", "strategy=averaging/fedavg", "data.labels=[background,tumour]", "+model.a=1"),
    *("run='a name'", "training.optimizer={lr: 0.1}", "~base", "base=~/models/m.safetensors"),
)
PUBLIC = f"{public_text(people.key(1).public_key())} hospital\n".encode()
ADDRESS = {"hosts": ["host.example", "10.0.0.1"], "port": 9092}
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
    json_file("address", "address.json", ADDRESS, _read_authority, ConfigError),
    json_file(
        "anchor-file",
        "anchors.json",
        ANCHORS,
        lambda folder: read_anchor(folder / "anchors.json", "ledger 1"),
        ConfigError,
    ),
    Reader("public-key", PUBLIC, _draw_public_key, _read_public_key, (KeyInvalid,)),
    Reader("ledger", _journal()[0], _draw_journal, _read_ledger, (LedgerError,)),
    Reader(
        "database-url",
        b"postgresql://user:password@host:5432/name",
        lambda random: damaged(b"postgresql://user:password@host:5432/name", random),
        _read_text(parse_url),
        (LedgerError,),
    ),
    Reader(
        "host-address",
        b"host.example:9092",
        lambda random: (
            f"host:{random.choice(TEXTS)}".encode("utf-8", "replace")
            if random.random() < 0.5
            else damaged(b"[::1]:9092", random)
        ),
        _read_text(parse_address),
        (AddressInvalid,),
    ),
    Reader("override", b"rounds=3", _draw_override, _read_override, (ConfigError,)),
    Reader(
        "settings",
        json.dumps(SET).encode(),
        _draw_settings,
        _read_settings,
        (ConfigError, LimitExceeded),
    ),
)
