"""Hospitals keep lines of the coordinator's journals: a journal written anew, or cut, is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic.fleet.anchor import is_signed
from polyclinic.fleet.wire.fleet_pb2 import Anchor
from polyclinic.security.keys import make_key
from polyclinic.store.journal import START, line_hash
from polyclinic.store.ledger import Ledger
from polyclinic.system.text import canonical_json
from polyclinic_client.fleet.anchors import MOST_EARLIER, Anchors
from polyclinic_demos.local_pki import local_authority
from polyclinic_server.enrolment.anchoring import Anchoring, judge
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.runs.coordinator import ledger_folders
from tests.core.store.ledger_cases import hand_over
from tests.core.store.ledger_damage import tamper
from tests.server.cli.commands import Run
from tests.server.fleet.coordinators import coordinator
from tests.server.fleet.thin_hospital import ThinHospital

Line = dict[str, Any]


def an_authority(folder: Path) -> Authority:
    authority = local_authority(folder, 1)
    Registry(folder).close()  # its journal has one line
    return authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return an_authority(tmp_path / "security")


@pytest.fixture
def kept(authority: Authority, tmp_path: Path) -> Path:
    """What a hospital kept after it was told that the key of st-john was revoked."""
    registry = Registry(authority.folder)
    for site in ("st-mary", "st-john"):
        registry.enrol(site, make_key(tmp_path / site))
    registry.revoke("st-john", "left")
    registry.close()
    return keep(authority, tmp_path / "state")


def keep(authority: Authority, state: Path, ledgers: tuple[Path, ...] = ()) -> Path:
    state.mkdir(exist_ok=True)
    anchors, anchoring = Anchors(state, authority.ca()), Anchoring(authority, ledgers)
    for anchor in anchoring():
        assert anchors.keep(anchor) == ""
    anchoring.close()
    return anchors.path


def written_anew(place: Path, change: Callable[[list[Line]], list[Line]]) -> None:
    """Change a journal's lines and make the whole chain again, as an intruder would."""
    with Ledger.open(place, create=False) as ledger:
        lines = [{**vars(line), "body": canonical_json(line.body)} for line in ledger.history()]
    previous, rows = START, []
    for number, line in enumerate(change(lines), start=1):
        line |= {"sequence": number, "previous": previous}
        previous = line["hash"] = line_hash(line)
        values = ", ".join(
            repr(value) if isinstance(value, int | float) else f"'{value}'"
            for value in line.values()
        )
        rows.append(f"INSERT INTO journal ({', '.join(line)}) VALUES ({values})")
    tamper(place, "DELETE FROM journal", *rows)


def without_revocations(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["kind"] != "revoked"]


def test_a_revoked_key_is_made_active_again_and_only_the_anchor_finds_it(
    authority: Authority, kept: Path, tmp_path: Path, run_cli: Run
) -> None:
    place = authority.folder / "journal"
    verify = ("ledger", "verify", "--ledger", str(place))
    ran = run_cli(*verify, "--anchor", str(kept))
    assert ran.returncode == 0 and "line 4 is what the hospital was shown" in ran.stdout
    registry = Registry(authority.folder)
    assert [key.active for key in registry.everybody()] == [False, True]

    def lie(lines: list[Line]) -> list[Line]:
        left = without_revocations(lines)
        return [
            *left,
            {**left[-1], "kind": "refused", "site": "", "body": '{"type": "", "sentence": ""}'},
        ]

    written_anew(place, lie)
    registry.close()
    registry = Registry(authority.folder)
    assert all(key.active for key in registry.everybody())
    registry.close()
    assert run_cli(*verify).returncode == 0
    ran = run_cli(*verify, "--anchor", str(kept))
    assert ran.returncode != 0 and "rewritten: line 4" in ran.stderr


def test_a_cut_tail(authority: Authority, kept: Path, tmp_path: Path) -> None:
    place = authority.folder / "journal"
    written_anew(place, lambda lines: lines[:-1])
    with Ledger.open(place, create=False) as journal:
        assert journal.verify() is None
        verdict = judge(kept, journal)
    assert not verdict.sound and verdict.sentence.startswith("cut: ")
    assert "line 4" in verdict.sentence and "line 3" in verdict.sentence


def test_a_newer_line_does_not_hide_that_an_earlier_one_was_changed(
    authority: Authority, kept: Path, tmp_path: Path
) -> None:
    """The hospital goes on keeping lines of the journal that was written anew."""
    written_anew(authority.folder / "journal", without_revocations)
    registry = Registry(authority.folder)
    for site in ("a", "b"):
        registry.enrol(site, make_key(tmp_path / site))
    registry.close()
    keep(authority, kept.parent)
    with Ledger.open(authority.folder / "journal", create=False) as journal:
        verdict = judge(kept, journal)
    assert not verdict.sound and verdict.sentence.startswith("rewritten: line 4")


def test_a_ledger_whose_first_line_is_another_one(authority: Authority, tmp_path: Path) -> None:
    place = tmp_path / "run" / "ledger"
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
    kept = keep(authority, tmp_path / "state", (place, tmp_path / "none"))
    with Ledger.open(place) as ledger:
        assert judge(kept, ledger).sound
    written_anew(place, lambda lines: [{**line, "time": line["time"] + 1} for line in lines])
    with Ledger.open(place) as ledger:
        assert ledger.verify() is None
        verdict = judge(kept, ledger)
    assert not verdict.sound and "rewritten from its first line" in verdict.sentence


def test_one_line_is_enough(authority: Authority, kept: Path, tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    with Ledger.open(authority.folder / "journal", create=False) as journal:
        newest = journal.history(1)[-1]
        file.write_text(f"newest line: {newest.sequence}, {newest.hash}\n")
        assert judge(file, journal).sound
        file.write_text(json.dumps({"sequence": 2, "hash": "0" * 64}))
        assert judge(file, journal).sentence.startswith("rewritten: line 2")
        file.write_text("nothing of the kind")
        with pytest.raises(ConfigError, match=r"line\.txt"):
            judge(file, journal)


def test_a_hospital_cannot_make_up_a_line(authority: Authority, kept: Path) -> None:
    content = json.loads(kept.read_text())
    (name,) = content
    content[name] |= {"sequence": 99}
    kept.write_text(json.dumps(content))
    with Ledger.open(authority.folder / "journal", create=False) as journal:
        verdict = judge(kept, journal)
    assert not verdict.sound and "did not sign" in verdict.sentence


def test_a_line_that_another_authority_signed_is_not_kept(
    authority: Authority, kept: Path, tmp_path: Path
) -> None:
    before = kept.read_text()
    anchoring = Anchoring(an_authority(tmp_path / "other"))
    (foreign,) = anchoring()
    anchoring.close()
    anchors = Anchors(kept.parent, authority.ca())
    unsigned = Anchor(journal="j", sequence=1, hash="a" * 64)
    for anchor in (foreign, unsigned):
        assert "not signed" in anchors.keep(anchor)
        assert anchors.keep(anchor) == ""  # once is enough
    assert kept.read_text() == before


def test_a_signature_holds_after_the_certificate_was_renewed(authority: Authority) -> None:
    anchoring = Anchoring(authority)
    (anchor,) = anchoring()
    anchoring.close()
    assert is_signed(anchor, authority.ca())
    authority.renew()
    assert is_signed(anchor, authority.ca())
    anchor.sequence += 1
    assert not is_signed(anchor, authority.ca())
    anchor.signature = b"\xff" * 3
    assert not is_signed(anchor, authority.ca())


def test_the_first_and_the_newest_lines_stay_however_many_there_are(tmp_path: Path) -> None:
    anchors = Anchors(tmp_path)
    for number in range(1, 200):
        anchors.keep(Anchor(journal="j", sequence=number, hash=f"{number:064}"))
    kept = anchors.read()["j"]
    assert kept.sequence == 199
    earlier = [line.sequence for line in kept.earlier]
    assert earlier == sorted(earlier) and earlier[0] == 1 and earlier[-1] == 198
    assert len(earlier) <= MOST_EARLIER


def test_every_welcome_and_every_answer_brings_the_newest_lines(tmp_path: Path) -> None:
    place = tmp_path / "run" / "ledger"
    anchorings: list[Anchoring] = []

    def anchors() -> list[Anchor]:
        return [anchor for each in anchorings for anchor in each()]

    with coordinator(tmp_path / "lab", anchors=anchors) as lab:
        anchorings.append(Anchoring(lab.authority, [place]))
        hospital = ThinHospital(lab.address, lab.credentials("st-mary"))
        (security,) = hospital.attend().anchors
        assert security.journal.startswith("security SHA256:")
        assert is_signed(security, lab.authority.ca())
        with Ledger.open(place) as ledger:
            question = hospital.work_of(lab.grid)
            hospital.say(reply={"envelope": {"reply_to": question.message_id}})
            shown = {each.journal: each for each in hospital.hear("taken").taken.anchors}
            (newest,) = ledger.history(1)
        assert shown.pop(security.journal) == security
        (of_ledger,) = shown.values()
        assert (of_ledger.sequence, of_ledger.hash) == (newest.sequence, newest.hash)
        hospital.close()
    anchorings[0].close()


def test_the_ledgers_of_a_run_are_found_whatever_the_strategy(tmp_path: Path) -> None:
    asked = (
        ["strategy=averaging/fedavg"],
        ["strategy=merging/mean", "strategy.ledger=runs/one"],
        ["strategy=refinement", "strategy.contributions.ledger=runs/two"],
    )
    found = ledger_folders(tmp_path, [load_config(each) for each in asked])
    assert found == [tmp_path / "ledger", Path("runs/one"), Path("runs/two")]


def test_the_ledgers_of_several_runs_come_and_go(authority: Authority, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        with Ledger.open(folder) as ledger:
            hand_over(ledger, "north")
    anchoring = Anchoring(authority)
    counts = [len(anchoring())]
    anchoring.follow("x", folders)
    anchoring.follow("y", folders[1:])
    counts.append(len(anchoring()))
    anchoring.leave("x")
    counts.append(len(anchoring()))
    anchoring.leave("y")
    counts.append(len(anchoring()))
    anchoring.close()
    assert counts == [1, 3, 2, 1]


def test_nobody_waits_while_another_thread_looks(authority: Authority) -> None:
    anchoring = Anchoring(authority)
    (known,) = anchoring()
    registry = Registry(authority.folder)
    registry.enrol("st-mary", make_key(authority.folder.parent / "st-mary"))
    registry.close()
    with anchoring._lock:  # a thread is at it, for as long as this block
        assert anchoring() == [known]
    (newer,) = anchoring()
    assert newer.sequence > known.sequence
    anchoring.close()


def test_a_damaged_file_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "anchors.json").write_text('{"j": {"sequence": "many"}}')
    anchors = Anchors(tmp_path)
    said = anchors.keep(Anchor(journal="j", sequence=1, hash="0" * 64))
    assert "anchors.json" in said and anchors.keep(Anchor(journal="j", sequence=2)) == ""
    assert "many" in (tmp_path / "anchors.json").read_text()
