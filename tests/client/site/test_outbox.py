"""The outbox: what is asked for, what waits, what was said of it, through every interruption."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import DatasetInvalid
from polyclinic_client.site.outbox import Outbox

BASE, OTHER = "a" * 64, "b" * 64
DIGEST, NEWER = "c" * 64, "d" * 64
RUNS = (("a", BASE, "1"), ("b", OTHER, "2"))


def assignment(base: str = BASE, ledger: str = "1", **order: Any) -> dict[str, Any]:
    ordered = {"run": "r", "arm": "a", "seed": 0, "rounds": 1, "personal": "none", "version": "1"}
    return {
        "order": {**ordered, "names": {}, **order},
        "base": base,
        "task": "t",
        "ledger": ledger * 64,
        "statistics": [],
    }


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    return Outbox(tmp_path / "state", tmp_path / "data")


def keep_base(outbox: Outbox, base: str = BASE) -> None:
    outbox.base_path(base).parent.mkdir(parents=True, exist_ok=True)
    outbox.base_path(base).write_bytes(b"base")


def finish(outbox: Outbox, digest: str = DIGEST) -> str:
    key = outbox.todo()
    assert key is not None
    outbox.folder.mkdir(parents=True, exist_ok=True)
    path = outbox.folder / f"{digest}.safetensors"
    path.write_bytes(b"contribution")
    outbox.put(path, key)
    return key


def test_there_is_nothing_to_do_before_a_coordinator_asks_and_its_base_has_come(
    outbox: Outbox,
) -> None:
    assert outbox.todo() is None and outbox.asked_at() is None
    outbox.assign(assignment())
    assert outbox.todo() is None and outbox.asked_at() is not None
    keep_base(outbox)
    assert outbox.todo() is not None


def test_a_finished_contribution_waits_until_the_coordinator_has_spoken(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    key = finish(outbox)
    assert outbox.todo() is None
    for _ in range(2):  # handing over does not remove it: the answer may be lost
        ready = outbox.ready()
        assert (
            ready is not None
            and ready.digest == DIGEST
            and ready.path.read_bytes() == b"contribution"
        )
    outbox.settle(DIGEST, True, "")
    outbox.settle(DIGEST, True, "")  # the same word may come twice
    assert outbox.ready() is None and outbox.todo() is None
    assert (said := outbox.outcome(key)) and said.accepted


def test_a_refusal_is_kept_with_its_reason_and_not_tried_in_circles(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    key = finish(outbox)
    outbox.settle(DIGEST, False, "another base")
    assert outbox.todo() is None
    assert (said := outbox.outcome(key)) and said.reason == "another base"


def test_another_base_or_other_data_is_new_work_but_another_run_is_not(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    finish(outbox)
    outbox.assign(assignment(run="another", arm="another", offset=2, version="9"))
    assert outbox.todo() is None
    outbox.assign(assignment(OTHER))
    keep_base(outbox, OTHER)
    assert outbox.todo() is not None
    outbox.assign(assignment())
    assert outbox.todo() is None
    (outbox.data / "dataset.json").write_text('{"training": []}')
    assert outbox.todo() is not None


def test_another_ledger_gets_the_same_contribution_without_training_again(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    key = finish(outbox)
    outbox.settle(DIGEST, True, "")
    outbox.assign(assignment(ledger="2"))
    ready = outbox.ready()
    assert (
        ready is not None and ready.digest == DIGEST and ready.path.read_bytes() == b"contribution"
    )
    assert outbox.todo() is None and outbox.outcome(key) is None
    outbox.settle(DIGEST, False, "unknown site")
    assert (said := outbox.outcome(key)) and said.reason == "unknown site"


def test_a_file_without_its_note_does_not_count(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    outbox.folder.mkdir(parents=True)
    (outbox.folder / f"{DIGEST}.safetensors").write_bytes(b"written just before the power went")
    assert outbox.ready() is None and outbox.todo() is not None


def test_the_oldest_contribution_goes_first(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    finish(outbox)
    (outbox.data / "dataset.json").write_text('{"training": []}')
    finish(outbox, NEWER)
    ready = outbox.ready()
    assert ready is not None and ready.digest == DIGEST
    outbox.settle(DIGEST, True, "")
    ready = outbox.ready()
    assert ready is not None and ready.digest == NEWER


def test_a_failure_is_remembered_until_the_client_starts_anew(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    key = outbox.todo()
    assert key is not None
    outbox.fail(key, "ConfigError: too few cases")
    assert outbox.todo() is None
    outbox.forget_failure()
    assert outbox.todo() == key


def test_a_data_set_that_is_gone_is_named(outbox: Outbox) -> None:
    outbox.assign(assignment())
    keep_base(outbox)
    (outbox.data / "dataset.json").unlink()
    with pytest.raises(DatasetInvalid, match=r"dataset\.json"):
        outbox.todo()


def test_two_runs_get_what_was_made_for_them_and_the_work_is_done_by_turns(outbox: Outbox) -> None:
    keep_base(outbox)
    keep_base(outbox, OTHER)
    outbox.assign(assignment(BASE, "1", run="a"))
    outbox.assign(assignment(OTHER, "2", run="b"))
    first, second = finish(outbox, DIGEST), finish(outbox, NEWER)
    assert first != second and outbox.todo() is None
    wanted = {
        name: outbox.assign(assignment(base, ledger, run=name)) for name, base, ledger in RUNS
    }
    made = {name: outbox.ready(each) for name, each in wanted.items()}
    keys = {name: outbox.key(each.values) for name, each in wanted.items()}
    for name, ready in made.items():
        assert ready is not None and (ready.digest == DIGEST) == (keys[name] == first)
    given = made["a"]
    assert given is not None
    outbox.settle(given.digest, True, "", wanted["a"])
    assert outbox.ready(wanted["a"]) is None and outbox.ready(wanted["b"]) == made["b"]
    assert outbox.outcome(keys["a"], wanted["a"].ledger)
    assert outbox.outcome(keys["b"], wanted["b"].ledger) is None
    outbox.assign(assignment(BASE, "1", run="a", seed=1))  # the next work of both
    outbox.assign(assignment(OTHER, "2", run="b", seed=1))
    turns = [outbox.wanted(finish(outbox, digit * 64)) for digit in "ef"]
    assert {each.values["order"]["run"] for each in turns if each} == {"a", "b"}


def test_two_runs_that_want_the_same_work_share_it_and_each_has_its_word(outbox: Outbox) -> None:
    keep_base(outbox)
    a = outbox.assign(assignment(ledger="1", run="a"))
    b = outbox.assign(assignment(ledger="2", run="b"))
    key = finish(outbox)
    assert outbox.ready(a) is not None and outbox.ready(a) == outbox.ready(b)
    outbox.settle(DIGEST, True, "", a)
    assert outbox.todo() is None  # b is offered what is there when it asks
    outbox.settle(DIGEST, False, "not here", b)
    outbox.settle(DIGEST, False, "again", a)  # a word comes once
    said = [outbox.outcome(key, each.ledger) for each in (a, b)]
    assert [each.accepted for each in said if each] == [True, False]
    assert outbox.todo() is None


def test_work_that_failed_for_one_run_is_tried_for_another_and_not_in_circles(
    outbox: Outbox,
) -> None:
    keep_base(outbox)
    keep_base(outbox, OTHER)
    outbox.assign(assignment(BASE, "1", run="a"))
    outbox.assign(assignment(OTHER, "2", run="b"))
    first = outbox.todo()
    assert first is not None
    outbox.fail(first, "too few cases")
    second = outbox.todo()
    assert second not in (None, first)
    outbox.fail(second or "", "too few cases")
    assert outbox.todo() is None


def test_a_run_that_asks_goes_before_one_that_is_silent_and_a_run_that_is_over_is_forgotten(
    outbox: Outbox,
) -> None:
    keep_base(outbox)
    keep_base(outbox, OTHER)
    silent = outbox.assign(assignment(BASE, "1", run="a"))
    kept = outbox.state / "assignments" / f"{silent.name}.json"
    os.utime(kept, (time.time() - 3600,) * 2)
    asking = outbox.assign(assignment(OTHER, "2", run="b"))
    assert outbox.todo() == outbox.key(asking.values)
    finish(outbox)
    assert outbox.todo() == outbox.key(silent.values)  # nothing else is to be done
    finish(outbox, NEWER)
    os.utime(kept, (1.0, 1.0))
    outbox.assign(assignment(OTHER, "2", run="b"))
    assert [each.name for each in outbox.assignments.all()] == [asking.name]
    assert outbox.find(DIGEST) and not outbox.find(NEWER)


def test_what_an_earlier_version_was_asked_is_known(outbox: Outbox) -> None:
    keep_base(outbox)
    outbox.state.mkdir(exist_ok=True)
    (outbox.state / "assignment.json").write_text(json.dumps(assignment()))
    assert outbox.todo() is not None and outbox.assignment() == assignment()
    outbox.assign(assignment(ledger="2"))
    assert [each.ledger for each in outbox.assignments.all()] == ["2" * 64]
