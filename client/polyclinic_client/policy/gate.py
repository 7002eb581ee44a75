"""The gate before all work: what a run asks for is compared with the policy, before data is read.

It is asked twice for each message: by whoever works, before anything is read; and at the door,
before the answer leaves. A policy that changed in between is obeyed.
"""

from collections.abc import Collection
from pathlib import Path

from polyclinic.config.schemas import SECURE_SUMS
from polyclinic.errors import NotAllowed
from polyclinic_client.policy.asked import SUMMED, Asked
from polyclinic_client.policy.decisions import decision_on, note_asked
from polyclinic_client.policy.policy import Policy, read_policy

SHOWN = 10  # names of a list in a sentence
# questions whose answers hold what training made
TRAINING = ("train", "query.collect", *SUMMED, "query.mask")


def enter(state: Path, asked: Asked, *, trains: bool, kind: str = "") -> None:
    """Note what is asked for, and refuse what the hospital does not allow.

    Args:
        state: The hospital's state folder.
        asked: What a question asks for.
        trains: Whether what training made leaves, now or later in the run.
        kind: Type of the question's message; empty where none is answered now.

    Raises:
        NotAllowed: The policy, or a person, does not allow it; or nobody has approved it yet.
        PolicyDamaged: The policy cannot be read.
    """
    policy = read_policy(state)
    note_asked(state, asked)
    check(state, policy, asked, trains=trains, kind=kind)


def leave(state: Path, asked: Asked, kind: str) -> None:
    """Refuse that an answer leaves which the hospital does not allow now.

    Args:
        state: The hospital's state folder.
        asked: What the question asked for.
        kind: Type of the question's message, such as train or query.hello.

    Raises:
        NotAllowed: The policy, or a person, does not allow it any more.
        PolicyDamaged: The policy cannot be read.
    """
    check(state, read_policy(state), asked, trains=kind in TRAINING, kind=kind)


def check(state: Path, policy: Policy, asked: Asked, *, trains: bool, kind: str = "") -> None:
    """Compare what is asked for with a policy, and with what a person decided.

    Raises:
        NotAllowed: The first thing that is not allowed.
        PolicyDamaged: What was decided cannot be read.
    """
    check_names(policy, asked)
    if trains:
        check_protections(policy, asked)
    decision = decision_on(state, asked.digest)
    if decision is not None and not decision.approved:
        because = f": {decision.reason}" if decision.reason else ""
        raise NotAllowed(f"This hospital's staff has refused the run{because}")
    if policy.approval and decision is None:
        raise NotAllowed(
            f"This hospital's staff has not yet approved what the run asks for "
            f"({asked.digest[:12]})",
            "Wait until it has: `polyclinic-client runs` shows it there.",
        )
    check_promise(asked, kind)


def check_names(policy: Policy, asked: Asked) -> None:
    """Refuse a method, a model, a task or a statistic that is not in the policy's lists.

    Raises:
        NotAllowed: The first one that is not.
    """
    _one_of("method", asked.method, policy.strategies)
    _one_of("model", asked.names.get("model", ""), policy.models)
    _one_of("task", asked.names.get("data", ""), policy.tasks)
    for name in asked.statistics:
        _one_of("statistic", name, policy.statistics)


def check_promise(asked: Asked, kind: str) -> None:
    """Hold a run to its promise that updates leave only as parts of secret sums.

    Raises:
        NotAllowed: A question's answer would show this hospital's own update all the same.
    """
    if SECURE_SUMS in asked.protections and asked.shows_update(kind):
        raise NotAllowed(
            "The run promised secure sums, and asks for this hospital's own update",
            "Start the run again with the coordinator's own polyclinic; if that does not help, do "
            "not trust it.",
        )


def check_protections(policy: Policy, asked: Asked) -> None:
    """Refuse training whose results leave with less protection than is demanded.

    Raises:
        NotAllowed: What is missing.
    """
    if policy.secure_sums and SECURE_SUMS not in asked.protections:
        raise NotAllowed(
            "This hospital's policy demands secure sums for what training made, and the run has "
            "none",
            "Choose a strategy and a privacy with them.",
        )
    if policy.epsilon_budget is not None and asked.epsilon is None:
        raise NotAllowed(
            "This hospital's policy has a budget for what training tells about a patient "
            "(epsilon_budget), and the run's training has no differential privacy",
            "Choose privacy=patient_dp.",
        )
    if policy.epsilon is not None and (asked.epsilon is None or asked.epsilon > policy.epsilon):
        has = "none" if asked.epsilon is None else f"{asked.epsilon:g}"
        raise NotAllowed(
            f"This hospital's policy demands training with an epsilon of at most "
            f"{policy.epsilon:g}, and the run's is {has}",
            "Choose training with that much differential privacy.",
        )


def _one_of(what: str, name: str, allowed: Collection[str] | None) -> None:
    if allowed is None or name in allowed:
        return
    known = ", ".join(sorted(allowed)[:SHOWN]) or "none"
    raise NotAllowed(
        f"This hospital's policy does not allow the {what} '{name}'; it allows {known}",
        "Ask for one of these, or ask the hospital to allow more.",
    )
