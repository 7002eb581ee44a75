"""A hospital that lies where contributions are merged: the run ends, the others' model stays."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.learning.state_dict import StateDict, pack
from polyclinic.store import requirements
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.merging import mailbox
from polyclinic_strategies.merging.arithmetic.layer import Layer
from polyclinic_strategies.merging.asking import calls
from polyclinic_strategies.merging.event_loop import EventLoop
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.merging.rules.trimmed_mean import TrimmedMean
from polyclinic_strategies.merging.strategy import Merging
from tests.strategies.attacks.in_rounds import GREETING, SCORING
from tests.strategies.attacks.on_arrival import (
    ANSWERS,
    COLLECT,
    FILES,
    OF_LAYERS,
    contributed,
    times,
)
from tests.strategies.attacks.twins import (
    BASE,
    HONEST,
    LIAR,
    NAMES,
    ORDER,
    TASK,
    Attack,
    Federation,
    handed,
)

RULES = "polyclinic_strategies.merging.rules"
TRIMMED = {"_target_": f"{RULES}.trimmed_mean.TrimmedMean", "trim": 0.2}
CLOSE = 0.02
KINDS = ("set_aside", "published", "note")
STATISTICS: dict[str, StateDict] = {
    "regmean": {"gram/conv.weight": torch.eye(4)},
    "fisher": {"fisher/conv.weight": torch.ones(3, 4), "fisher/conv.bias": torch.ones(3)},
}


def merge(
    federation: Federation, rule: dict[str, Any], statistics: tuple[str, ...] = (), **more: Any
) -> EventLoop:
    """Run until everybody has contributed, or has had the time to."""
    loop = make_loop(federation, rule, statistics, **more)
    assert loop.run() is not None
    return loop


def make_loop(
    federation: Federation, rule: dict[str, Any], statistics: tuple[str, ...] = (), **more: Any
) -> EventLoop:
    strategy = Merging("t", rule, poll_s=0.01, statistics=statistics, **more)
    ledger = Ledger.open(federation.folder / "ledger")
    base = ledger.add_base(BASE)
    everybody = [*HONEST, *([LIAR] if hasattr(federation, "liar") else [])]
    strategy = replace(strategy, end={"sites": everybody})
    loop = EventLoop(
        strategy,
        federation.grid,
        federation.attendance,
        ledger,
        Assignment(ORDER, base, TASK, ledger.identity(), statistics),
        NAMES,
        0,
        federation.note,
    )
    loop.mailbox.patience_s = 0.3
    return loop


def scores(federation: Federation, ledger: Ledger) -> dict[str, float]:
    """Score the newest model where the honest hospitals are."""
    newest = ledger.publications()[-1]
    weights = pack(ledger.load_model(newest.digest), NAMES)
    return {site: twin.score(weights).score for site, twin in federation.twins.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "LOOK_S", 0.01)
    monkeypatch.setattr(calls, "SLOW_CALL_S", 0.0)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a federation to which the honest hospitals have contributed."""
    federation = Federation(tmp_path_factory.mktemp("calm"))
    merge(federation, TRIMMED).ledger.close()
    return federation.folder


@pytest.fixture(scope="module")
def calm(begun: Path) -> dict[str, float]:
    federation = Federation(begun)
    with Ledger.open(begun / "ledger") as ledger:
        found = scores(federation, ledger)
    assert min(found.values()) > 0.9
    return found


def lied_to(begun: Path, folder: Path, attack: Attack) -> Federation:
    """Go on with that federation, with a liar in it."""
    shutil.copytree(begun / "ledger", folder / "ledger")
    federation = Federation(folder, attack)
    for twin in federation.twins.values():
        twin.has_base = twin.settled = True
    return federation


@pytest.mark.parametrize("attack", [*ANSWERS, *FILES, *SCORING], ids=str)
def test_a_liar_is_named_and_changes_no_honest_figure(
    tmp_path: Path, begun: Path, calm: dict[str, float], attack: Attack
) -> None:
    federation = lied_to(begun, tmp_path, attack)
    loop = merge(federation, TRIMMED)

    assert scores(federation, loop.ledger) == {
        site: pytest.approx(calm[site], abs=CLOSE) for site in calm
    }
    assert federation.blamed() == ({LIAR} if attack.named else set())
    assert bool(federation.told()) == (attack.named or attack.unusual)
    newest = next(e.to_line() for e in reversed(federation.events) if e.kind == "published")
    assert set(HONEST) <= set(newest["sites"])
    assert len(federation.events) < 200


@pytest.mark.parametrize("attack", GREETING, ids=str)
def test_who_is_not_let_in_hands_in_nothing(
    tmp_path: Path, begun: Path, calm: dict[str, float], attack: Attack
) -> None:
    federation = lied_to(begun, tmp_path, attack)
    loop = merge(federation, TRIMMED) if not attack.named else merge_without_liar(federation)
    assert scores(federation, loop.ledger) == {
        site: pytest.approx(calm[site], abs=CLOSE) for site in calm
    }
    assert bool(federation.told()) == attack.named


def merge_without_liar(federation: Federation) -> EventLoop:
    del federation.liar
    return merge(federation, TRIMMED)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_statistics_are_checked_before_anything_counts(tmp_path: Path, name: str) -> None:
    kind = "fisher" if "fisher" in name else "regmean"
    statistic = "fisher" if kind == "fisher" else "gram"
    rule = {"_target_": f"{RULES}.{kind}.{'Fisher' if kind == 'fisher' else 'RegMean'}"}
    attack = Attack(name, "query.collect", contributed(statistics=OF_LAYERS[name]))
    federation = Federation(tmp_path, attack)
    for twin in federation.twins.values():
        twin.statistics = STATISTICS[kind]
    loop = merge(federation, rule, (statistic,))

    assert federation.blamed() == {LIAR} and len(federation.told()) == 1
    assert {entry.site for entry in loop.publisher.entries()} == set(HONEST)


@pytest.mark.parametrize(
    ("rule", "examples", "statistics"),
    [
        ({"_target_": f"{RULES}.weighted_mean.WeightedMean"}, 2**53, {}),
        ({"_target_": f"{RULES}.regmean.RegMean"}, 4, {"gram/conv.weight": torch.ones(1, 1)}),
        ({"_target_": f"{RULES}.regmean.RegMean"}, 4, {"gram/conv.bias": torch.ones(1, 1)}),
        ({"_target_": f"{RULES}.fisher.Fisher"}, 4, {"fisher/conv.bias": -torch.ones(3)}),
    ],
)
def test_what_was_accepted_once_and_cannot_be_merged_is_set_aside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: dict[str, Any],
    examples: int,
    statistics: StateDict,
) -> None:
    """An earlier version accepted it; nothing was published then."""
    kind = "fisher" if "fisher" in str(rule) else "regmean"
    needs = {"regmean": "gram", "fisher": "fisher"}
    wanted = (needs[kind],) if kind in str(rule) else ()
    federation = Federation(tmp_path, Attack("", "never", lambda _m, _t: None))
    for twin in federation.twins.values():
        twin.statistics = STATISTICS[kind] if wanted else {}
    with Ledger.open(tmp_path / "ledger") as ledger:
        assignment = Assignment(ORDER, ledger.add_base(BASE), TASK, ledger.identity())
        federation.liar.statistics = statistics
        federation.liar.has_base = federation.liar.settled = True
        path = federation.liar.contribute(assignment, num_examples=examples)
        layout = {name: tuple(tensor.shape) for name, tensor in BASE.items()}
        asked = Requirements(assignment.base, layout, TASK, None, 2**30, 0.0, {}, 0)
        with monkeypatch.context() as earlier:
            earlier.setattr(requirements, "MOST_EXAMPLES", 2**53)
            ledger.receive(path, LIAR, asked)
    loop = merge(federation, rule, wanted)

    aside = [e.to_line() for e in federation.events if e.kind == "set_aside"]
    assert [line["site"] for line in aside] == [LIAR] and aside[0]["reason"]
    newest = next(e.to_line() for e in reversed(federation.events) if e.kind == "published")
    assert newest["sites"] == list(HONEST)
    assert len(loop.ledger.publications()[-1].contributions) == len(HONEST)


def test_a_contribution_sent_again_is_not_merged_again(tmp_path: Path, begun: Path) -> None:
    federation = lied_to(begun, tmp_path, Attack("", "never", lambda _m, _t: None))
    del federation.liar
    loop = merge(federation, TRIMMED)
    twin = federation.twins["a"]
    content = twin.contribute(loop.assignment).read_bytes()
    before = len(loop.ledger.publications())
    assert loop.receive("a", handed(content)).accepted
    assert len(loop.ledger.publications()) == before
    assert federation.events[-1].kind == "duplicate"


def test_garbage_is_asked_for_less_and_less_often(tmp_path: Path, begun: Path) -> None:
    attack = next(each for each in ANSWERS if each.name.startswith("another piece"))
    federation = lied_to(begun, tmp_path, attack)
    loop = merge(federation, TRIMMED)
    refused = [line for line in loop.ledger.history() if line.kind == "refused"]
    assert 3 <= len(refused) < 12


@pytest.mark.parametrize("at_fault", [{LIAR}, {LIAR, "a"}], ids=["one", "two"])
def test_a_rule_that_raises_because_of_a_contribution_ends_no_run(
    tmp_path: Path, begun: Path, monkeypatch: pytest.MonkeyPatch, at_fault: set[str]
) -> None:
    plain = TrimmedMean.__call__

    def picky(rule: TrimmedMean, layer: Layer) -> torch.Tensor:
        if at_fault & set(layer.keys):
            raise ValueError("a number that I did not expect")
        return plain(rule, layer)

    monkeypatch.setattr(TrimmedMean, "__call__", picky)
    federation = lied_to(begun, tmp_path, Attack("", "never", lambda _m, _t: None))
    make_loop(federation, TRIMMED).run()

    told = {kind: [e.to_line() for e in federation.events if e.kind == kind] for kind in KINDS}
    (first,) = [str(line["site"]) for line in told["set_aside"]]
    assert "ValueError" in str(told["set_aside"][0]["reason"])
    assert first in at_fault and first not in told["published"][-1]["sites"]
    said = [str(line) for line in told["note"]]
    if at_fault == {LIAR}:
        assert told["published"][-1]["sites"] == list(HONEST) and not said
    else:  # it was a alone at first; with the second, nobody is the only one
        assert first == "a" and said
        assert all("TrimmedMean" in line and "ValueError" in line for line in said)


def test_a_run_that_goes_on_after_a_bad_answer_does_not_meet_it_again(
    tmp_path: Path, begun: Path
) -> None:
    federation = lied_to(begun, tmp_path, Attack("", COLLECT, contributed(times(math.nan))))
    merge(federation, TRIMMED).ledger.close()
    assert federation.blamed() == {LIAR}

    again = Federation(tmp_path, Attack("", "never", lambda _m, _t: None))
    for twin in again.twins.values():
        twin.has_base = twin.settled = True
    loop = merge(again, TRIMMED)
    assert again.blamed() == set() and again.told() == []
    assert {entry.site for entry in loop.publisher.entries()} == {*HONEST, LIAR}
