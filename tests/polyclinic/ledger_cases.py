"""What a ledger must do, whichever database it is in: every case takes a folder that has no ledger yet."""

import json
import math
import multiprocessing
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.contribution import Contribution, Requirements, write_contribution
from polyclinic.errors import LedgerDamaged, LedgerError, LedgerNotFound, ModelInvalid, NothingToWithdraw
from polyclinic.journal import database_of, line_hash
from polyclinic.ledger import Entry, Ledger, Receipt
from polyclinic.refusals import NormTooLarge, NotFinite, SiteMismatch
from polyclinic.state_dict import state_digest

CASES: list[Callable[[Path], None]] = []
LAYOUT: dict[str, tuple[int, ...]] = {"conv.weight": (2, 3), "conv.bias": (2,)}


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """One of those that every database must pass."""
    CASES.append(function)
    return function


def model(value: float = 0.0) -> dict[str, Tensor]:
    return {name: torch.full(shape, value) for name, shape in LAYOUT.items()}


def asked(base: str = "b" * 64, **changes: Any) -> Requirements:
    given: dict[str, Any] = {"sites": None, "max_bytes": 10**6, "max_norm_ratio": 10.0, "older_bases": {}, "max_staleness": 0, **changes}
    return Requirements(base=base, layout=LAYOUT, task="blood", **given)


def made(place: Path, site: str, created: float = 1.0, value: float = 1.0, base: str = "b" * 64) -> Path:
    given = Contribution(site, base, "blood", 10, {"score": 0.5}, created, "0.1.0")
    return write_contribution(place.parent / "arrived", given, model(value), {})


def hand_over(ledger: Ledger, site: str, created: float = 1.0, value: float = 1.0) -> Receipt:
    return ledger.receive(made(ledger.folder, site, created, value), site, asked())


def kinds(ledger: Ledger) -> list[str]:
    return [line.kind for line in ledger.history()]


def states(ledger: Ledger) -> dict[str, str]:
    return {f"{entry.site} {entry.created:g}": entry.state for entry in ledger.entries()}


def sound(ledger: Ledger) -> bool:
    return ledger.verify() is None


@case
def a_contribution_is_kept_with_everything_it_said(place: Path) -> None:
    with Ledger.open(place) as ledger:
        path = made(place, "north", 7.25, 2.0)
        receipt = ledger.receive(path, "north", asked())
        assert receipt == Receipt(path.stem, 2, True, True)
        found = ledger.active()
    with Ledger.open(place, create=False) as again:
        assert again.active() == found
    (entry,) = found
    assert isinstance(entry, Entry)
    assert entry.path.read_bytes() == path.read_bytes()
    assert (entry.site, entry.base, entry.task, entry.num_examples) == ("north", "b" * 64, "blood", 10)
    assert (entry.metrics, entry.created, entry.version, entry.staleness) == ({"score": 0.5}, 7.25, "0.1.0", 0)
    assert (entry.bytes, entry.norm, entry.state) == (path.stat().st_size, pytest.approx(math.sqrt(8 * 4.0)), "active")
    assert entry.received > 1.7e9


@case
def the_same_again_changes_nothing(place: Path) -> None:
    with Ledger.open(place) as ledger:
        first, again = hand_over(ledger, "north"), hand_over(ledger, "north")
        assert (again.digest, again.sequence, again.new, again.active) == (first.digest, first.sequence, False, True)
        assert kinds(ledger) == ["opened", "contribution"]
        hand_over(ledger, "north", 2.0)
        assert not hand_over(ledger, "north").active


@case
def the_newest_made_counts_not_the_newest_arrived(place: Path) -> None:
    with Ledger.open(place) as ledger:
        assert hand_over(ledger, "north", 20.0).active
        assert not hand_over(ledger, "north", 10.0).active
        assert hand_over(ledger, "south", 1.0).active
        assert states(ledger) == {"north 20": "active", "north 10": "superseded", "south 1": "active"}
        assert [(entry.site, entry.created) for entry in ledger.active()] == [("north", 20.0), ("south", 1.0)]


@case
def two_made_at_once_are_told_apart_by_their_digests(place: Path) -> None:
    with Ledger.open(place) as ledger:
        digests = [hand_over(ledger, "north", 1.0, value).digest for value in (1.0, 2.0, 3.0)]
        assert [entry.digest for entry in ledger.active()] == [max(digests)]


@case
def active_contributions_can_be_those_of_one_base(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        late = asked("c" * 64, older_bases={"b" * 64: 1}, max_staleness=1)
        ledger.receive(made(place, "south", base="c" * 64), "south", late)
        ledger.receive(made(place, "west"), "west", late)
        assert [(entry.site, entry.staleness) for entry in ledger.active("b" * 64)] == [("north", 0), ("west", 1)]
        assert [entry.site for entry in ledger.active("c" * 64)] == ["south"]


@case
def a_site_leaves_and_returns(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for created in (1.0, 2.0):
            hand_over(ledger, "north", created)
        hand_over(ledger, "south")
        before = ledger.active()
        ledger.withdraw("north", "its labels were wrong")
        assert ledger.active() == before[1:]
        assert states(ledger) == {"north 1": "withdrawn", "north 2": "withdrawn", "south 1": "active"}
        assert not hand_over(ledger, "north", 2.0).active  # the same again does not bring it back
        assert hand_over(ledger, "north", 1.5).active  # something new does
        line = ledger.history()[-2]
        assert (line.kind, line.site, line.body) == ("withdrawn", "north", {"reason": "its labels were wrong"})


@case
def who_has_nothing_withdraws_nothing(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "south")
        with pytest.raises(NothingToWithdraw, match=r"north has no active contribution .* Active: south"):
            ledger.withdraw("north", "")
        ledger.withdraw("south", "")
        with pytest.raises(NothingToWithdraw, match="Active: none"):
            ledger.withdraw("south", "")


@case
def a_refusal_is_noted_once(place: Path) -> None:
    with Ledger.open(place) as ledger:
        path = made(place, "north", value=math.nan)
        for _ in range(3):
            with pytest.raises(NotFinite):
                ledger.receive(path, "north", asked())
        assert kinds(ledger) == ["opened", "refused"]
        line = ledger.history()[-1]
        assert (line.site, line.subject, line.body["type"]) == ("north", path.stem, "NotFinite")
        assert "NaN" in line.body["sentence"]
        assert ledger.entries() == []
        assert sound(ledger)


@case
def a_replay_in_anothers_name_is_refused(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        with pytest.raises(SiteMismatch):
            ledger.receive(made(place, "north"), "south", asked())
        assert [entry.site for entry in ledger.active()] == ["north"]


@case
def a_norm_is_compared_with_the_other_hospitals(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("east", "south", "west"):
            hand_over(ledger, site)
        with pytest.raises(NormTooLarge):
            hand_over(ledger, "north", value=1000.0)
        assert hand_over(ledger, "north", value=9.0).active
        for site in ("east", "west"):
            ledger.withdraw(site, "")
        assert hand_over(ledger, "north", 2.0, value=1000.0).active  # one other is too few to compare with


@case
def bases_follow_one_another(place: Path) -> None:
    with Ledger.open(place) as ledger:
        first = ledger.add_base(model(1.0), "from scratch")
        assert ledger.add_base(model(1.0)) == first == state_digest(model(1.0))
        second = ledger.add_base(model(2.0))
        assert ledger.bases() == [first, second]
        assert ledger.add_base(model(1.0)) == first
        assert ledger.bases() == [first, second, first]
        assert torch.equal(ledger.load_model(second)["conv.bias"], torch.full((2,), 2.0))
        assert ledger.history()[1].body == {"note": "from scratch"}
        assert sound(ledger)


@case
def a_model_that_is_not_there_is_named(place: Path) -> None:
    with Ledger.open(place) as ledger:
        digest = ledger.add_base(model())
        for wrong in ("0" * 64, "../" + digest, ""):
            with pytest.raises(ModelInvalid, match="has no model"):
                ledger.load_model(wrong)
        path = ledger.model_path(digest)
        flip(path)
        with pytest.raises(ModelInvalid, match="was changed"):
            ledger.load_model(digest)
        assert ledger.add_base(model()) == digest  # a damaged file is written again by who has the model
        assert sound(ledger)


@case
def publications_are_numbered(place: Path) -> None:
    with Ledger.open(place) as ledger:
        digests = [hand_over(ledger, site).digest for site in ("north", "south")]
        first = ledger.publish(model(3.0), {"rule": "mean", "scale": 0.5}, digests)
        assert (first.number, first.digest, first.contributions) == (1, state_digest(model(3.0)), tuple(digests))
        assert ledger.publish(model(3.0), {"scale": 0.5, "rule": "mean"}, digests) == first
        second = ledger.publish(model(3.0), {"rule": "mean", "scale": 0.6}, digests)
        third = ledger.publish(model(3.0), {"rule": "mean", "scale": 0.5}, digests)
        assert ledger.publications() == [first, second, third]
        assert [publication.number for publication in ledger.publications()] == [1, 2, 3]
        assert torch.equal(ledger.load_model(first.digest)["conv.bias"], torch.full((2,), 3.0))
        with pytest.raises(LedgerError, match="has no contribution 000000000000"):
            ledger.publish(model(), {}, ["0" * 64])
        with pytest.raises(ValueError, match="JSON"):
            ledger.publish(model(), {"scale": math.nan}, digests)
        assert len(ledger.publications()) == 3
        assert sound(ledger)


@case
def the_last_lines_can_be_asked_for(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("a", "b", "c"):
            hand_over(ledger, site)
        assert [line.sequence for line in ledger.history()] == [1, 2, 3, 4]
        assert [line.site for line in ledger.history(2)] == ["b", "c"]


@case
def every_ledger_has_an_identity(place: Path) -> None:
    with Ledger.open(place) as ledger:
        first = ledger.identity()
        hand_over(ledger, "north")
        assert ledger.identity() == first
    with Ledger.open(place) as ledger, Ledger.open(place.parent / "other") as other:
        assert ledger.identity() == first != other.identity()


@case
def an_orphan_file_does_no_harm(place: Path) -> None:
    with Ledger.open(place) as ledger:
        path = made(place, "north")
        orphan = place / "contributions" / path.stem[:2] / path.name
        orphan.parent.mkdir(parents=True)
        orphan.write_bytes(path.read_bytes()[:-1])  # as if it had been cut off, too
        assert sound(ledger)
        assert ledger.receive(path, "north", asked()).new
        assert sound(ledger)


@case
def two_processes_keep_one_chain(place: Path) -> None:
    count = 12
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_submit, args=(place, f"site-{number}", count)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    with Ledger.open(place, create=False) as ledger:
        assert kinds(ledger).count("contribution") == 3 * count  # each its own, and those of "both" once
        assert kinds(ledger).count("opened") == 1
        assert [entry.site for entry in ledger.active()] == ["both", "site-0", "site-1"]
        assert sound(ledger)


def _submit(place: Path, site: str, count: int) -> None:
    with Ledger.open(place) as ledger:
        for number in range(count):
            hand_over(ledger, site, float(number))
            hand_over(ledger, "both", float(number))


@case
def the_database_refuses_changes(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        for statement in (
            "UPDATE journal SET site = 'south'",
            "UPDATE contributions SET num_examples = 1000",
            "DELETE FROM journal",
            "DELETE FROM contributions",
        ):
            with pytest.raises(Exception, match="the ledger only grows"):
                execute(place, statement)
        assert sound(ledger)


@case
def what_verify_counts(place: Path) -> None:
    with Ledger.open(place) as ledger:
        base = ledger.add_base(model())
        digests = [hand_over(ledger, site).digest for site in ("north", "south")]
        assert ledger.publish(model(1.0), {}, digests).digest != base
        told: dict[str, int] = {}
        assert ledger.verify(lambda what, count: told.update({what: count})) is None
        assert told == {"line": 5, "file": 2, "model": 2}


@case
def verify_finds_every_kind_of_damage(place: Path) -> None:
    with Ledger.open(place) as ledger:
        digests = [hand_over(ledger, site).digest for site in ("north", "south")]
        published = ledger.publish(model(1.0), {"rule": "mean"}, digests)
        blob, weights = ledger.entries()[0].path, ledger.model_path(published.digest)
        for path, said in ((blob, "a contribution's file"), (weights, "a model's file")):
            whole = path.read_bytes()
            flip(path)
            assert_fault(ledger, f"{said} was changed", str(path))
            path.unlink()
            assert_fault(ledger, f"{said} is missing", str(path))
            path.write_bytes(whole)
            assert sound(ledger)


@case
def verify_finds_an_edited_row(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        tamper(place, "UPDATE contributions SET num_examples = 1000")
        assert_fault(ledger, "a contribution's num_examples was changed", "of north")


@case
def verify_finds_a_removed_row(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        tamper(place, "DELETE FROM contributions")
        assert_fault(ledger, "a contribution is missing from its table", "of north")


@case
def verify_finds_an_edited_line(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        tamper(place, "UPDATE journal SET time = time + 1 WHERE sequence = 2")
        assert_fault(ledger, "a journal line was changed", "journal line 2")


@case
def verify_finds_a_removed_line(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        ledger.withdraw("north", "")
        tamper(place, "DELETE FROM journal WHERE sequence = 2")
        assert_fault(ledger, "a journal line is missing", "before journal line 3")
        tamper(place, "UPDATE journal SET sequence = sequence - 1 WHERE sequence = 3", "UPDATE journal SET sequence = 3 WHERE sequence = 4")
        assert_fault(ledger, "the chain is broken", "journal line 2")


@case
def verify_finds_a_removed_last_line_of_a_contribution(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        tamper(place, "DELETE FROM journal WHERE sequence = 2")
        assert_fault(ledger, "a contribution has no journal line", "of north")


@case
def verify_finds_an_emptied_journal(place: Path) -> None:
    with Ledger.open(place) as ledger:
        tamper(place, "DELETE FROM journal")
        assert_fault(ledger, "the journal is empty", "journal")
        with pytest.raises(LedgerDamaged, match="first line"):
            Ledger.open(place)


@case
def verify_finds_a_chain_in_another_order(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        tamper(
            place,
            "UPDATE journal SET sequence = 100 WHERE sequence = 2",
            "UPDATE journal SET sequence = 2 WHERE sequence = 3",
            "UPDATE journal SET sequence = 3 WHERE sequence = 100",
        )
        assert_fault(ledger, "the chain is broken", "journal line 2")


@case
def verify_finds_a_line_whose_hash_was_made_anew(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        (line,) = (line for line in ledger.history() if line.sequence == 2)
        changed = {**vars(line), "site": "west", "body": json.dumps(line.body, sort_keys=True, separators=(",", ":"))}
        tamper(place, f"UPDATE journal SET site = 'west', hash = '{line_hash(changed)}' WHERE sequence = 2")
        assert_fault(ledger, "the chain is broken", "journal line 3")


@case
def there_is_no_ledger_where_none_was_made(place: Path) -> None:
    with pytest.raises(LedgerNotFound, match="there is no ledger here"):
        Ledger.open(place, create=False)


def assert_fault(ledger: Ledger, what: str, where: str) -> None:
    fault = ledger.verify()
    assert fault is not None
    assert fault.what == what
    assert where in fault.where
    assert fault.expected != fault.found
    assert what in str(fault)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def execute(place: Path, *statements: str) -> None:
    """By another way than the ledger's own."""
    found = database_of(place)
    assert found is not None
    url = found[0]
    if url.get_backend_name() == "sqlite":
        connection: Any = sqlite3.connect(str(url.database))
    else:
        import psycopg

        connection = psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def tamper(place: Path, *statements: str) -> None:
    """As an intruder who first removes what guards the tables."""
    found = database_of(place)
    assert found is not None
    if found[0].get_backend_name() == "sqlite":
        changes = ("UPDATE", "DELETE", "replacement")
        guards = [f"DROP TRIGGER IF EXISTS {table}_no_{change}" for table in ("journal", "contributions") for change in changes]
    else:
        guards = [f"DROP TRIGGER IF EXISTS {table}_grows_only ON {table}" for table in ("journal", "contributions")]
    execute(place, *guards, *statements)
