"""Ledgers of version 0.1.0: listed, verified, merged and refined offline, and changed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from polyclinic.store.ledger import Ledger
from tests.compatibility.conftest import Run
from tests.compatibility.kept import LEDGERS, V010, figures, said

LISTS = {
    "ledger list": ("ledger", "list"),
    "ledger history": ("ledger", "history"),
    "models list": ("models", "list"),
}


def ledger_of(kept: Path, run: str) -> Path:
    return kept / "runs" / run / "ledger"


@pytest.mark.parametrize("what", LISTS)
@pytest.mark.parametrize("name", LEDGERS)
def test_what_it_holds_is_listed_as_it_was(kept: Path, run: Run, name: str, what: str) -> None:
    listed = run("polyclinic-server", *LISTS[what], "--ledger", ledger_of(kept, name))
    assert listed.returncode == 0, listed.stderr
    before = figures(said(f"{what} {name}"))
    assert before and figures(listed.stdout) == before


@pytest.mark.parametrize("name", LEDGERS)
def test_it_is_sound_down_to_the_newest_line(kept: Path, run: Run, name: str) -> None:
    verified = run("polyclinic-server", "ledger", "verify", "--ledger", ledger_of(kept, name))
    assert verified.returncode == 0, verified.stderr
    (newest,) = figures(said(f"ledger verify {name}"))
    assert len(newest) == 64 and figures(verified.stdout) == [newest]


def test_a_changed_line_is_found(kept: Path, run: Run) -> None:
    folder = ledger_of(kept, "merging")
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
        guards = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in guards.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE journal SET site = 'somebody' WHERE sequence = 2")
        connection.commit()
    verified = run("polyclinic-server", "ledger", "verify", "--ledger", folder)
    assert verified.returncode != 0


@pytest.mark.parametrize("rule", [("mean",), ("ties", "keep=0.5")])
def test_a_merge_gives_the_same_model(kept: Path, run: Run, rule: tuple[str, ...]) -> None:
    target = kept / "merged.safetensors"
    merged = run(
        "polyclinic-server", "merge", "--rule", *rule, "--ledger", ledger_of(kept, "merging"),
        "--to", target,
    )  # fmt: skip
    assert merged.returncode == 0, merged.stderr
    before, now = load_file(V010 / "models" / f"merged-{rule[0]}.safetensors"), load_file(target)
    assert before.keys() == now.keys()
    assert all(np.array_equal(before[name], now[name]) for name in before)


@pytest.mark.parametrize(("site", "options"), [("st-john", ()), ("mprage-3t", ("--left-out",))])
def test_whose_work_is_in_a_refined_model_is_explained_as_it_was(
    kept: Path, run: Run, site: str, options: tuple[str, ...]
) -> None:
    target = kept / "made.safetensors"
    ledger = ("--ledger", ledger_of(kept, "refinement"))
    made = run(
        "polyclinic-server", "refine", *ledger, "--for", site, "--explain", "--to", target, *options
    )
    assert made.returncode == 0, made.stderr
    before = figures(said(f"refine {site}"))
    assert before and figures(made.stdout)[: len(before)] == before
    if site == "st-john":
        received, again = load_file(V010 / "models" / "refined.safetensors"), load_file(target)
        assert received.keys() == again.keys()
        assert all(np.allclose(received[name], again[name], atol=1e-6) for name in received)


def test_a_hospital_can_still_be_withdrawn(kept: Path, run: Run) -> None:
    folder = ledger_of(kept, "merging")
    with Ledger.open(folder, create=False) as ledger:
        active = {entry.site for entry in ledger.active()}
    assert active == {"mprage-3t", "thick-t1"}  # the third one left while the run went on
    words = ("withdraw", "thick-t1", "--reason", "leaves", "--ledger", folder)
    assert run("polyclinic-server", "ledger", *words).returncode == 0
    with Ledger.open(folder, create=False) as ledger:
        assert {entry.site for entry in ledger.active()} == {"mprage-3t"}
        assert ledger.verify() is None
