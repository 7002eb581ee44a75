"""Rounds of training that protect each patient: what they may tell, and what they have told.

A round that is asked for again, from the same weights, gets the same bytes as before, and counts
once. What was never answered, because the process died, is trained anew, and counts when it is
answered.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from polyclinic.errors import ModelInvalid, NotAllowed
from polyclinic.federation.hospital import Hospital, Trained
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site, private_plan
from polyclinic.learning.private.accounting import Spending, epsilon
from polyclinic.learning.private.plan import PrivatePlan
from polyclinic.learning.state_dict import load_state, packed_digest, save_state
from polyclinic.learning.training import FitResult
from polyclinic.system.text import json_digest
from polyclinic_client.patients.spent import Entry, Spent, told_by
from polyclinic_client.policy.policy import Policy, read_policy

ANSWERS, WEIGHTS, ENTRY = "answers", "weights", "entry"
KEPT = 2  # answers of a strategy: of this round, and of the one before
ROUNDING = 1e-6  # of an epsilon
UNLIKE = ("offset", "version")  # parts of an order that change when a run is resumed


def answer_round(site: Site, order: Order, weights: Tensor, hospital: Hospital) -> Trained:
    """Train for a round; with differential privacy, only within what may be told.

    Raises:
        NotAllowed: The run, or the hospital's budget, does not allow it.
        SpentDamaged: What was told so far is not known.
    """
    plan = private_plan(site, order)
    if plan is None:
        return hospital.train(site, order, weights)
    policy, spent = read_policy(site.state), Spent(site.state)
    question = question_digest(order, weights)
    path = site.folder(order) / ANSWERS / f"{question}.safetensors"
    entries = spent.entries()
    found = _kept(path)
    if found is None or found[1] not in entries:
        check_round(policy, order, plan, entries)
    if found is None:
        trained = hospital.train(site, order, weights)
        found = trained.weights, _entry(order, question, plan)
        save_state({WEIGHTS: found[0]}, path, {ENTRY: found[1].model_dump_json()})
        _forget_old(path)
    answered, entry = found
    if entry not in entries:
        spent.note(entry)
        entries = (*entries, entry)
    result = FitResult(float("nan"), entry.spent.steps, len(site.dataset.training))
    so_far = told_by([each for each in entries if each.run == order.run])
    return Trained(answered, result, None if policy.hide_epsilon else so_far.epsilon)


def check_run(site: Site, order: Order) -> None:
    """Refuse a run whose rounds would exceed the hospital's budget, before it trains.

    Raises:
        NotAllowed: They would.
        SpentDamaged: What was told so far is not known.
    """
    plan = private_plan(site, order)
    if plan is None:
        return
    entries = Spent(site.state).entries()
    others = [each for each in entries if (each.run, each.strategy) != (order.run, order.arm)]
    one = plan.spending
    whole = Spending(one.share, one.noise, one.steps * order.rounds)
    _check_budget(read_policy(site.state), others, whole, plan.delta)


def check_round(policy: Policy, order: Order, plan: PrivatePlan, entries: Sequence[Entry]) -> None:
    """Refuse a round that would tell more than the run promised, or than the hospital allows.

    Raises:
        NotAllowed: It would.
    """
    assert order.patients is not None
    of_run = [each for each in entries if each.run == order.run]
    of_strategy = [each.spent for each in of_run if each.strategy == order.arm]
    promised = order.patients.epsilon
    if _beyond(epsilon([*of_strategy, plan.spending], plan.delta), promised):
        raise NotAllowed(
            f"Round {order.round} would tell more about a patient than the run promised (epsilon "
            f"{promised:g}): it was asked for more than once, or from other weights",
            "Begin a new run.",
        )
    with_round = epsilon([*(each.spent for each in of_run), plan.spending], plan.delta)
    if policy.epsilon is not None and _beyond(with_round, policy.epsilon):
        raise NotAllowed(
            f"This hospital's policy lets a run tell at most epsilon {policy.epsilon:g} about a "
            f"patient, and with this round it would be {with_round:.3g}",
            "Run fewer strategies, or with a smaller privacy.patients.epsilon.",
        )
    _check_budget(policy, entries, plan.spending, plan.delta)


def question_digest(order: Order, weights: Tensor) -> str:
    """Return the SHA-256 of all that the answer to a round depends on."""
    asked = {name: value for name, value in asdict(order).items() if name not in UNLIKE}
    return json_digest([asked, packed_digest(weights)])


def _entry(order: Order, question: str, plan: PrivatePlan) -> Entry:
    return Entry(
        time=time.time(),
        run=order.run,
        strategy=order.arm,
        round=order.round,
        question=question,
        patients=plan.patients,
        delta=plan.delta,
        share=plan.spending.share,
        noise=plan.spending.noise,
        steps=plan.spending.steps,
    )


def _check_budget(policy: Policy, before: Sequence[Entry], more: Spending, delta: float) -> None:
    if policy.epsilon_budget is None:
        return
    least = min([delta, *(each.delta for each in before)])
    now = epsilon((each.spent for each in before), least)
    then = epsilon([*(each.spent for each in before), more], least)
    if _beyond(then, policy.epsilon_budget):
        raise NotAllowed(
            f"This hospital's budget for what training tells about a patient is epsilon "
            f"{policy.epsilon_budget:g}. {now:.3g} of it is spent, and with this it would be "
            f"{then:.3g}",
            "Ask for a smaller privacy.patients.epsilon, or for fewer rounds.",
        )


def _beyond(found: float, allowed: float) -> bool:
    return found > allowed * (1 + ROUNDING)


def _kept(path: Path) -> tuple[Tensor, Entry] | None:
    """Return an answer that was made before; None where there is none, or it is damaged."""
    with contextlib.suppress(ModelInvalid, KeyError, ValueError):
        state, described = load_state(path)
        return state[WEIGHTS], Entry.model_validate_json(described[ENTRY])
    return None


def _forget_old(path: Path) -> None:
    """Remove all but the newest answers of a strategy."""
    known = sorted(path.parent.glob("*.safetensors"), key=lambda each: each.stat().st_mtime)
    for old in known[:-KEPT]:
        old.unlink(missing_ok=True)
