"""Cases that every ledger must pass, whatever its database; they take a folder without one."""

import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polyclinic.errors import LedgerError, LedgerNotFound, ModelInvalid, NothingToWithdraw
from polyclinic.learning.state_dict import state_digest
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Entry, Ledger, Receipt
from polyclinic.store.refusals import NormTooLarge, NotFinite, SiteMismatch
from polyclinic.store.requirements import Requirements

CASES: list[Callable[[Path], None]] = []
LAYOUT: dict[str, tuple[int, ...]] = {"conv.weight": (2, 3), "conv.bias": (2,)}


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """One of those that every database must pass."""
    CASES.append(function)
    return function


def model(value: float = 0.0) -> dict[str, Tensor]:
    return {name: torch.full(shape, value) for name, shape in LAYOUT.items()}


def asked(base: str = "b" * 64, **changes: Any) -> Requirements:
    given: dict[str, Any] = {
        "sites": None,
        "max_bytes": 10**6,
        "max_norm_ratio": 10.0,
        "older_bases": {},
        "max_staleness": 0,
        **changes,
    }
    return Requirements(base=base, layout=LAYOUT, task="blood", **given)


def made(
    place: Path, site: str, created: float = 1.0, value: float = 1.0, base: str = "b" * 64
) -> Path:
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
    assert (entry.site, entry.base, entry.task, entry.num_examples) == (
        "north",
        "b" * 64,
        "blood",
        10,
    )
    assert (entry.metrics, entry.created, entry.version, entry.staleness) == (
        {"score": 0.5},
        7.25,
        "0.1.0",
        0,
    )
    assert (entry.bytes, entry.norm, entry.state) == (
        path.stat().st_size,
        pytest.approx(math.sqrt(8 * 4.0)),
        "active",
    )
    assert entry.received > 1.7e9


@case
def the_same_again_changes_nothing(place: Path) -> None:
    with Ledger.open(place) as ledger:
        first, again = hand_over(ledger, "north"), hand_over(ledger, "north")
        assert (again.digest, again.sequence, again.new, again.active) == (
            first.digest,
            first.sequence,
            False,
            True,
        )
        assert kinds(ledger) == ["opened", "contribution"]
        hand_over(ledger, "north", 2.0)
        assert not hand_over(ledger, "north").active


@case
def the_newest_made_counts_not_the_newest_arrived(place: Path) -> None:
    with Ledger.open(place) as ledger:
        assert hand_over(ledger, "north", 20.0).active
        assert not hand_over(ledger, "north", 10.0).active
        assert hand_over(ledger, "south", 1.0).active
        assert states(ledger) == {
            "north 20": "active",
            "north 10": "superseded",
            "south 1": "active",
        }
        assert [(entry.site, entry.created) for entry in ledger.active()] == [
            ("north", 20.0),
            ("south", 1.0),
        ]


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
        assert [(entry.site, entry.staleness) for entry in ledger.active("b" * 64)] == [
            ("north", 0),
            ("west", 1),
        ]
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
        assert states(ledger) == {
            "north 1": "withdrawn",
            "north 2": "withdrawn",
            "south 1": "active",
        }
        assert not hand_over(ledger, "north", 2.0).active  # the same again does not bring it back
        assert hand_over(ledger, "north", 1.5).active  # something new does
        line = ledger.history()[-2]
        assert (line.kind, line.site, line.body) == (
            "withdrawn",
            "north",
            {"reason": "its labels were wrong"},
        )


@case
def what_another_process_writes_is_seen_at_once(place: Path) -> None:
    with Ledger.open(place) as ours, Ledger.open(place) as theirs:
        hand_over(ours, "north")
        publication = ours.publish(model(), {"rule": "mean"}, [])
        assert [entry.site for entry in ours.active()] == ["north"]
        assert ours.publications() == [publication]
        hand_over(theirs, "south")
        theirs.withdraw("north", "left")
        assert [entry.site for entry in ours.active()] == ["south"]
        assert [entry.site for entry in ours.entries()] == ["north", "south"]
        newer = theirs.publish(model(1.0), {"rule": "mean"}, [])
        assert ours.publications() == [publication, newer]
        ours.active().clear()  # a caller's list is its own
        assert [entry.site for entry in ours.active()] == ["south"]


@case
def who_has_nothing_withdraws_nothing(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "south")
        with pytest.raises(NothingToWithdraw, match=r"north .* Active: south"):
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
        assert hand_over(
            ledger, "north", 2.0, value=1000.0
        ).active  # one other is too few to compare with


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
            with pytest.raises(ModelInvalid, match=r"models list"):
                ledger.load_model(wrong)
        path = ledger.model_path(digest)
        flip(path)
        with pytest.raises(ModelInvalid, match="backup"):
            ledger.load_model(digest)
        # a damaged file is written again by who has the model
        assert ledger.add_base(model()) == digest
        assert sound(ledger)


@case
def publications_are_numbered(place: Path) -> None:
    with Ledger.open(place) as ledger:
        digests = [hand_over(ledger, site).digest for site in ("north", "south")]
        first = ledger.publish(model(3.0), {"rule": "mean", "scale": 0.5}, digests)
        assert (first.number, first.digest, first.contributions) == (
            1,
            state_digest(model(3.0)),
            tuple(digests),
        )
        assert ledger.publish(model(3.0), {"scale": 0.5, "rule": "mean"}, digests) == first
        second = ledger.publish(model(3.0), {"rule": "mean", "scale": 0.6}, digests)
        third = ledger.publish(model(3.0), {"rule": "mean", "scale": 0.5}, digests)
        assert ledger.publications() == [first, second, third]
        assert [publication.number for publication in ledger.publications()] == [1, 2, 3]
        assert torch.equal(ledger.load_model(first.digest)["conv.bias"], torch.full((2,), 3.0))
        with pytest.raises(LedgerError, match="000000000000"):
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
    workers = [
        context.Process(target=_submit, args=(place, f"site-{number}", count))
        for number in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    with Ledger.open(place, create=False) as ledger:
        # each its own, and those of "both" once
        assert kinds(ledger).count("contribution") == 3 * count
        assert kinds(ledger).count("opened") == 1
        assert [entry.site for entry in ledger.active()] == ["both", "site-0", "site-1"]
        assert sound(ledger)


def _submit(place: Path, site: str, count: int) -> None:
    with Ledger.open(place) as ledger:
        for number in range(count):
            hand_over(ledger, site, float(number))
            hand_over(ledger, "both", float(number))


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
def there_is_no_ledger_where_none_was_made(place: Path) -> None:
    with pytest.raises(LedgerNotFound, match="--ledger"):
        Ledger.open(place, create=False)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
