"""Files of a hospital: its kit, its keys, and its state folder."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from polyclinic.errors import ConfigError, KeyInvalid, KitInvalid
from polyclinic.federation.assignment import Assignment
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.security.keys import load_private_key
from polyclinic.security.kit import Kit
from polyclinic_client.fleet.anchors import Anchors
from polyclinic_client.page.scan_task import TASK, read_scan_task
from polyclinic_client.patients.spent import Spent, SpentDamaged
from polyclinic_client.policy.asked import Asked
from polyclinic_client.policy.decisions import decision_on, requests
from polyclinic_client.policy.policy import Policy, PolicyDamaged, read_policy
from polyclinic_client.sent.journal import Journal, JournalDamaged, Leaving
from polyclinic_client.site.outbox import Outbox
from polyclinic_client.site.predict import _Made
from polyclinic_client.site.status import StatusFile, fine_tuning_news, read_machine, worker_news
from polyclinic_strategies.evaluation.case_scores import read_scores
from tests.fuzz import people
from tests.fuzz.messages import ASSIGNMENT, check_order
from tests.fuzz.mutation import as_json, damaged
from tests.fuzz.reader import Reader

DIGEST = "a" * 64


def json_file(
    name: str,
    path: str,
    tree: Any,
    read: Callable[[Path], object],
    *errors: type[BaseException],
) -> Reader:
    """Make the reader of a JSON file at a path below a folder."""

    def read_file(content: bytes, folder: Path) -> object:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        return read(folder)

    return Reader(
        name, json.dumps(tree).encode(), lambda random: as_json(tree, random), read_file, errors
    )


def _read_policy(folder: Path) -> None:
    policy = read_policy(folder)
    assert policy.memory_bytes > 0 and policy.hours > 0 and policy.epochs > 0
    assert policy.min_subjects >= 1 and policy.noise_multiplier >= 0
    assert policy.strictest(Policy()) == policy.strictest(policy)


def _read_journal(content: bytes, folder: Path) -> None:
    """Read a journal, and write on: it ends sound, or as it was."""
    path = folder / "sent.jsonl"
    path.write_bytes(content)
    journal = Journal(path)
    journal.verify()
    with suppress(JournalDamaged):
        list(journal.entries())
    journal.append(Leaving("update", 1, DIGEST))


def _journal() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "sent.jsonl")
        journal.append(Leaving("update", 1, DIGEST, "there", "run"), Leaving("fault", 2, DIGEST))
        return journal.path.read_bytes()


def _read_decision(folder: Path) -> None:
    found = decision_on(folder, DIGEST)
    assert found is None or isinstance(found.approved, bool)


def _read_spent(folder: Path) -> None:
    entries = Spent(folder).entries()
    assert all(each.spent.steps >= 1 and 0 < each.delta < 1 for each in entries)


def _read_requests(folder: Path) -> None:
    for each in requests(folder):
        assert each.asked.digest == each.digest and each.asked.words()


def _read_case_scores(folder: Path) -> None:
    found = read_scores(folder)
    assert found is None or all(0 <= score <= 1 for score in found.scores.values())


def _read_status(folder: Path) -> None:
    status = StatusFile(folder / "status.json").read()
    said = worker_news(status), fine_tuning_news(status), status.reason, status.percent
    assert status.percent is None or 0 <= status.percent <= 100, said


def _read_anchors(folder: Path) -> None:
    kept = Anchors(folder)
    kept.read()
    kept.keep(wire.Anchor(journal="ledger 1", sequence=9, hash="b" * 64))


def _read_outbox(folder: Path) -> None:
    """Ask for everything that a client asks of its outbox."""
    (folder / "dataset.json").write_text("{}")
    outbox = Outbox(folder, folder)
    (folder / "bases").mkdir(exist_ok=True)
    base = folder / "bases" / f"{'b' * 64}.safetensors"
    base.touch()
    assignment = outbox.assignment()
    key = outbox.todo()
    outbox.ready(), outbox.failure("k"), outbox.outcome("k"), outbox.progress()
    wanted = outbox.assign(ASSIGNMENT.to_json())
    outbox.ready(wanted), outbox.progress(wanted)
    outbox.settle(DIGEST, True, "", wanted)
    if assignment is not None and key is not None:
        with suppress(ConfigError):  # as the worker says it
            check_order(Assignment.from_json(assignment).order)


def _outbox_file(name: str, path: str, tree: Any) -> Reader:
    reader = json_file(name, path, tree, lambda folder: None)  # damaged, it is as if missing

    def read(content: bytes, folder: Path) -> None:
        for other in ("assignment.json", "fine_tuning.json"):
            (folder / other).unlink(missing_ok=True)
        for inner in ("assignments", "outbox", "settled", "failures"):
            for each in folder.glob(f"{inner}/*"):
                each.unlink()
        (folder / "assignment.json").write_text(json.dumps(ASSIGNMENT.to_json()))
        reader.read(content, folder)
        (folder / path).with_suffix(".safetensors").touch()
        _read_outbox(folder)

    return Reader(name, reader.sound, reader.draw, read, reader.errors)


def _read_private_key(content: bytes, folder: Path) -> object:
    path = folder / "hospital.key"
    path.write_bytes(content)
    path.chmod(0o600)
    return load_private_key(path)


def _draw_key(random: Random) -> bytes:
    return damaged(people.private_text(), random)


KIT = {
    "format": 1,
    "site": "north",
    "server": "host.example:9092",
    "ca": people.pem(),
    "key": "SHA256:x",
}
ANCHORS = {
    "ledger 1": {
        "sequence": 7,
        "hash": "a" * 64,
        "signature": "00",
        "earlier": [{"sequence": 3, "hash": "c" * 64, "signature": "00"}],
    }
}
STATUS = {
    "time": 1.7e9,
    "doing": "training",
    "run": "r",
    "arm": "fedavg",
    "round": 1,
    "rounds": 3,
    "step": 4,
    "steps": 10,
    "loss": 0.4,
    "reason": "",
}
NOTE = {"key": "k", "time": 1.7e9}
SETTLED = {**NOTE, "ledger": "e" * 64, "accepted": True, "reason": "", "settled": 1.7e9}
CASE_SCORES = {"digest": DIGEST, "scores": {"0 a": 0.5, "1 b": 1.0}}
LIMITS = {"memory_gb": 4.0, "cache_gb": 1.0, "epochs": 100, "hours": 5.0, "releases": 3}
POLICY = b"""# ours
models: [unet, dynunet]
approval: true
epochs: 500
hours: 1.5
"""
JOURNAL = _journal()
DECISION = {"approved": True, "reason": "", "by": "a", "time": 1.7e9}
SPENT = {
    "time": 1.7e9,
    "run": "r",
    "strategy": "fedavg",
    "round": 1,
    "question": "a" * 64,
    "patients": 9,
    "delta": 1e-5,
    "share": 0.5,
    "noise": 1.5,
    "steps": 4,
}
ASKED = Asked("run", "arm", "merging", 3, names={"model": "unet", "data": "brain_tissue"})
READERS = (
    json_file("kit", "k.json", KIT, lambda folder: Kit.read(folder / "k.json"), KitInvalid),
    json_file("limits", "limits.json", LIMITS, _read_policy, ConfigError),
    json_file(
        "release",
        "release.json",
        {"min_subjects": 3, "noise_multiplier": 0.5},
        _read_policy,
        ConfigError,
    ),
    Reader(
        "policy",
        POLICY,
        lambda random: damaged(POLICY, random),
        lambda content, folder: (
            (folder / "policy.yaml").write_bytes(content),
            _read_policy(folder),
        ),
        (PolicyDamaged,),
    ),
    Reader(
        "sent-journal",
        JOURNAL,
        lambda random: damaged(JOURNAL, random),
        _read_journal,
        (JournalDamaged,),
    ),
    json_file("decision", f"decisions/{DIGEST}.json", DECISION, _read_decision, PolicyDamaged),
    json_file("asked", f"asked/{ASKED.digest}.json", ASKED.values(), _read_requests),
    json_file("spent", "spent.json", [SPENT], _read_spent, SpentDamaged),
    json_file("status", "status.json", STATUS, _read_status),
    json_file(
        "scan-task",
        TASK,
        {"scan": "a.nii", "target": "b.nii.gz", "model": "m", "service": None},
        read_scan_task,
        ConfigError,
    ),
    json_file("machine", "machine.json", {"device": "4 cores", "memory_bytes": 9}, read_machine),
    json_file("anchors", "anchors.json", ANCHORS, _read_anchors, ConfigError),
    json_file("made", ".made.json", {"a": ["b", 1]}, lambda folder: _Made(folder, "m")),
    json_file("case-scores", "cases.json", CASE_SCORES, _read_case_scores),
    _outbox_file("assignment-file", "assignment.json", ASSIGNMENT.to_json()),
    _outbox_file("outbox", f"outbox/{DIGEST}.json", NOTE),
    _outbox_file("settled", f"settled/{DIGEST}.json", SETTLED),
    _outbox_file("assignments", "assignments/a.json", ASSIGNMENT.to_json()),
    _outbox_file("failure", "failures/k.json", {**NOTE, "reason": "disk full"}),
    _outbox_file("fine-tuning", "fine_tuning.json", STATUS),
    Reader("private-key", people.private_text(), _draw_key, _read_private_key, (KeyInvalid,)),
)
