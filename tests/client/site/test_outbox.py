"""The outbox: what is asked for, what waits, what was said of it, through every interruption."""

from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import DatasetInvalid
from polyclinic_client.site.outbox import Outbox

BASE, OTHER = "a" * 64, "b" * 64
DIGEST, NEWER = "c" * 64, "d" * 64


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
