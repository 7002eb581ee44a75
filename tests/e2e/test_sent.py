"""Everything on the wire of a hospital is in its journal, and nothing else is on the wire."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from polyclinic.fleet.protocol import SESSION_HEADER
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.sent.journal import FILE, Journal
from polyclinic_demos.cohorts.hospitals import write_unlabelled
from polyclinic_demos.federation import ONE_THREAD
from tests.e2e.federation import TINY
from tests.e2e.recorder import Recorder, recording
from tests.processes import run_cli
from tests.task_cohort import write_public, write_tasks

pytestmark = pytest.mark.e2e
TWO = ("deployment.hospitals=2", "deployment.min_hospitals=2")
SIGNALS = {"hello", "proof", "goodbye", "receipt", "doing", "fetch"}
REPLIES = {
    "train": "update",
    "evaluate": "figures",
    "evaluate.score": "figures",
    "evaluate.test": "figures",
    "query.hello": "greeting",
    "query.describe": "statistics",
    "query.base": "confirmation",
    "query.refined": "confirmation",
}
Sent = tuple[str, int, str]  # kind, bytes, BLAKE3


@dataclass
class Hospital:
    """One hospital of a run, with the relay before it.

    Attributes:
        data: Its data set.
        state: Its state folder.
        recorder: The relay.
        client: Its process.
    """

    data: Path
    state: Path
    recorder: Recorder
    client: Child


def sent(kind: str, data: bytes) -> Sent:
    return kind, len(data), blake3(data).hexdigest()


def kind_of(frame: wire.FromHospital) -> str:
    name = str(frame.WhichOneof("frame"))
    if name != "reply":
        return {"received": "receipt"}.get(name, name)
    reply = frame.reply.envelope
    if reply.HasField("fault"):
        return "fault"
    names = {entry.name for record in reply.content.records for entry in record.config.entries}
    if reply.type == "query.hello" and not any(name.startswith("count.") for name in names):
        return "refusal"
    if reply.type != "query.collect":
        return REPLIES[reply.type]
    arrays = [entry for record in reply.content.records for entry in record.arrays.entries]
    return "contribution" if arrays or "file" in names else "progress"


def beat(number: int) -> bytes:
    return wire.FromHospital(heartbeat=wire.Heartbeat(number=number)).SerializeToString()


def on_the_wire(recorder: Recorder) -> tuple[Counter[Sent], Counter[tuple[int, str]], list[int]]:
    """Read messages, contents of blobs, and the number of heartbeats of each line."""
    messages, contents, lines = Counter[Sent](), Counter[tuple[int, str]](), list[int]()
    blobs: dict[str, bytearray] = {}
    for method, datas, metadata in recorder.sent:
        assert set(metadata) <= {"user-agent", SESSION_HEADER}
        name, beats, blob = method.rpartition("/")[2], 0, ""
        for data in datas:
            if name == "Attend":
                frame = wire.FromHospital.FromString(data)
                if frame.WhichOneof("frame") == "heartbeat":
                    beats += 1
                    assert data == beat(beats)
                    continue
                messages[sent(kind_of(frame), data)] += 1
            elif name == "Fetch":
                messages[sent("fetch", data)] += 1
            elif name == "Offer":  # what it says, the entry of the content says
                offer = wire.OfferRequest.FromString(data)
                same = wire.OfferRequest(message_id=offer.message_id, blob=offer.blob)
                assert data == same.SerializeToString()
                contents[offer.blob.size, offer.blob.digest] += 1
            else:
                assert name == "Store"
                chunk = wire.Chunk.FromString(data)
                blob = chunk.digest or blob
                held = blobs.setdefault(blob, bytearray())
                if chunk.digest:
                    assert chunk.offset == len(held)
                held += chunk.data
        if name == "Attend":
            lines.append(beats)
    for digest, held in blobs.items():
        assert blake3(held).hexdigest() == digest and (len(held), digest) in contents
    return messages, contents, lines


def check(hospital: Hospital) -> Counter[str]:
    """Compare the wire with the journal; return how many of each kind there were."""
    journal = Journal(hospital.state / FILE)
    assert journal.verify().fault == ""
    entries = list(journal.entries())
    messages, contents, lines = on_the_wire(hospital.recorder)
    told = Counter[Sent]((each.kind, each.bytes, each.digest) for each in entries)
    told_contents = Counter[tuple[int, str]]()
    for each in entries:
        if (each.bytes, each.digest) in contents:
            told_contents[each.bytes, each.digest] += 1
            told[each.kind, each.bytes, each.digest] -= 1
            assert each.kind in ("update", "contribution", "statistics") and each.run
    assert told_contents == contents
    assert not messages - told, "something left that the journal does not tell of"
    # a line's last heartbeat may not have arrived; a client that is killed tells of no line
    counts = {number for beats in lines for number in (beats, beats + 1)}
    counted = {sent("line", b"".join(map(beat, range(1, number + 1)))) for number in counts}
    told = Counter({each: count for each, count in told.items() if each not in counted})
    unsent = told - messages
    # written first: it was not sent where nobody answered, or where the line ended with it
    assert {kind for kind, _, _ in unsent} <= {"hello", "goodbye", "doing"}, unsent
    assert all(each.run for each in entries if each.kind not in SIGNALS | {"line"})
    return Counter(each.kind for each in entries)


@contextmanager
def federation(
    folder: Path, sites: list[Path], command: list[str], modes: dict[str, str] | None = None
) -> Iterator[tuple[Child, list[Hospital]]]:
    """Start a coordinator without keys, and hospitals that reach it by a relay each."""
    port = free_port()
    coordinator = Child(
        "coordinator",
        python_module(
            "polyclinic_server.cli.main", *command, f"deployment.port={port}",
            f"deployment.runs={folder / 'runs'}",
        ),
        folder / "coordinator.log",
        ONE_THREAD,
    )  # fmt: skip
    with recording(f"127.0.0.1:{port}", len(sites)) as recorders:
        hospitals = []
        for data, recorder in zip(sites, recorders, strict=True):
            state = folder / "state" / data.name
            more = [] if (modes or {}).get(data.name) is None else ["--describe"]
            joining = python_module(
                "polyclinic_client.cli.main", "join", *more, "--insecure", "--name", data.name,
                "--server", f"127.0.0.1:{recorder.port}", "--data", str(data),
                "--state", str(state), "--min-subjects", "1",
            )  # fmt: skip
            client = Child(data.name, joining, folder / f"{data.name}.log", ONE_THREAD)
            hospitals.append(Hospital(data, state, recorder, client))
        try:
            coordinator.start()
            for each in hospitals:
                each.client.start()
            yield coordinator, hospitals
        finally:
            stop_all([*(each.client for each in hospitals), coordinator], patience_s=12.0)


def run(
    folder: Path, sites: list[Path], *settings: str, modes: dict[str, str] | None = None
) -> list[Counter[str]]:
    """Run to the end; compare every hospital's wire with its journal."""
    command = ["run", "--insecure", "--name", "run", *settings]
    with federation(folder, sites, command, modes) as (coordinator, hospitals):
        assert coordinator.wait(400) == 0, coordinator.log.read_text()[-3000:]
    return [check(each) for each in hospitals]


def test_averaging_and_then_an_evaluation(tmp_path: Path, sites: list[Path]) -> None:
    one = tmp_path / "averaging"
    one.mkdir()
    found = run(one, sites[:2], *TINY, *TWO, "rounds=2")
    for kinds in found:
        assert kinds["greeting"] == 1 and kinds["update"] >= 2 and kinds["figures"] >= 3
    other = tmp_path / "evaluation"
    other.mkdir()
    model = one / "runs" / "run" / "arms" / "fedavg" / "model.safetensors"
    command = ["evaluate", str(model), "--insecure", *TWO]
    with federation(other, sites[:2], command) as (coordinator, hospitals):
        assert coordinator.wait(300) == 0, coordinator.log.read_text()[-3000:]
    for hospital in hospitals:
        assert check(hospital)["figures"] == 1
    shown = run_cli(
        "polyclinic_client.cli.main", "sent", "--verify", "--state", str(hospitals[0].state)
    )
    assert shown.returncode == 0 and "all as they were written" in shown.stdout


def test_merging(tmp_path: Path, sites: list[Path]) -> None:
    settings = ("strategy=merging/mean", "strategy.poll_s=0.5", "rounds=1")
    for kinds in run(tmp_path, sites[:2], *TINY, *TWO, *settings):
        assert kinds["contribution"] >= 1 and kinds["progress"] >= 1


def test_refinement_with_a_newcomer(tmp_path: Path, sites: list[Path]) -> None:
    newcomer = write_unlabelled(sites[2], tmp_path / "data" / "st-john")
    settings = (
        *("strategy=refinement", "rounds=2", "strategy.base_rounds=1"),
        *("strategy.contributions.poll_s=0.5", "strategy.statistics=[average_image]"),
        *("strategy.rules=[softmax]", "strategy.sharpness=[0.2]", "strategy.stay.newcomers=1"),
        "privacy.release.min_subjects=1",
    )
    found = run(
        tmp_path, [*sites[:2], newcomer], *TINY, *TWO, *settings, modes={"st-john": "describe"}
    )
    assert found[0]["contribution"] >= 1
    assert found[2]["statistics"] >= 1 and found[2]["confirmation"] >= 1
    assert found[2]["update"] == found[2]["contribution"] == 0


def test_the_universal_model(tmp_path: Path) -> None:
    settings = (
        *("strategy=universal", "model=universal", "data=universal", "training=universal"),
        *("strategy.stages=1", "strategy.contributions.poll_s=0.5"),
        *("strategy.distillation.steps=5", "strategy.distillation.batch_size=4"),
        *("model.encoder.widths=[8,8,8,8]", "data.patch=[32,32]", "training.epochs=1"),
        *("training.batch_size=6", f"strategy.public={write_public(tmp_path / 'public')}"),
    )
    sites = write_tasks(tmp_path / "data")[:2]
    for kinds in run(tmp_path, sites, *TWO, *settings):
        assert kinds["contribution"] >= 1


def test_a_plan(tmp_path: Path, sites: list[Path]) -> None:
    command = ["plan", "--insecure", "--out", str(tmp_path / "plan.yaml"), "data=brain_tissue"]
    command += ["data.patch=[16,16,16]", "privacy.release.min_subjects=1", *TWO]
    with federation(tmp_path, sites[:2], command) as (coordinator, hospitals):
        assert coordinator.wait(300) == 0, coordinator.log.read_text()[-3000:]
    for hospital in hospitals:
        kinds = check(hospital)
        assert kinds["statistics"] == 1 and kinds["update"] == 0


def test_one_approves_and_one_refuses_and_the_report_says_so(
    tmp_path: Path, sites: list[Path]
) -> None:
    settings = (*TINY, "deployment.hospitals=1", "deployment.min_hospitals=1", "rounds=1")
    command = ["run", "--insecure", "--name", "run", *settings, "deployment.wait_s=600"]
    for site in sites[:2]:
        keep_policy(tmp_path / "state" / site.name, approval=True)
    with federation(tmp_path, sites[:2], command) as (coordinator, hospitals):
        one, other = hospitals
        for each, verb in ((other, "refuse"), (one, "approve")):
            wait_for_question(each)
            reason = ["--reason", "not before the committee met"] if verb == "refuse" else []
            done = run_cli(
                "polyclinic_client.cli.main", verb, "run", "--state", str(each.state), *reason
            )
            assert done.returncode == 0, done.stderr
        assert coordinator.wait(400) == 0, coordinator.log.read_text()[-3000:]
    said = (tmp_path / "runs" / "run" / "report.html").read_text()
    assert "not before the committee met" in said and "not yet approved" not in said
    taking, refusing = map(check, hospitals)
    assert taking["update"] >= 1
    assert refusing["refusal"] >= 2 and refusing["greeting"] == 0
    assert refusing["update"] == refusing["figures"] == refusing["statistics"] == 0


def wait_for_question(hospital: Hospital) -> None:
    deadline = time.monotonic() + 200
    while not list((hospital.state / "asked").glob("*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
