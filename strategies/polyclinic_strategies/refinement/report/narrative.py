"""A refinement run in words, computed from the figures, also when refinement did not help."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from polyclinic.reporting.formats import (
    join_words,
    list_bytes,
    plural,
    show_difference,
    show_score,
    show_seconds,
    subtract,
    were,
)
from polyclinic.reporting.narrative import NO_CLEAR_DIFFERENCE
from polyclinic_strategies.refinement.events import WITHDRAWAL
from polyclinic_strategies.refinement.report.membership_events import MembershipEvent
from polyclinic_strategies.refinement.report.state import DecisionState, RefinementState

NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
NEAR = 1.0  # the median distance between two hospitals that took part
HURT = 0.03  # a loss of a hospital that deserves a warning
UNIFORM = "uniform mean"  # the recipe that gives everybody the same share


@dataclass(frozen=True)
class Gain:
    """One hospital's score with the model that everybody gets, and with its own refined one."""

    site: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Difference of the three decimals that are shown."""
        return subtract(self.after, self.before)


def tell_lead(
    measure: str,
    joined: int,
    trained: int,
    before: float | None,
    after: float | None,
    baseline: str,
) -> str:
    """Tell the result in one sentence.

    Args:
        measure: Name of the score.
        joined: Number of hospitals that joined later, which the means are over; or 0.
        trained: Number of hospitals that took part, which the means are over; or 0.
        before: Mean with the baseline's model.
        after: Mean with refined models.
        baseline: What is compared with, in words.
    """
    if after is None or not joined + trained:
        return "There are no scores of refined models yet."
    count = joined or trained
    which = "joined later, without labels and without training," if joined else "took part"
    whose = "a model of its own" if count == 1 else "models of their own"
    got = f"{_number(count)} hospital{'' if count == 1 else 's'} that {which} got {whose}"
    score = f"{measure} {show_score(after)}"
    if before is None:
        return f"{got}: {score}. There is nothing to compare it with."
    gain = subtract(after, before)
    compared = f"{score}, and {show_score(before)} with {baseline}."
    if abs(gain) < NO_CLEAR_DIFFERENCE:
        return f"{got}. That made no clear difference: {compared}"
    if gain < 0:
        return f"{got}. That did not help: {compared}"
    return f"{got}: {score} instead of {show_score(before)} with {baseline}."


def tell_gains(gains: Sequence[Gain], baseline: str) -> str:
    """Tell how many hospitals gained, and who lost."""
    if not gains:
        return ""
    worse = [
        f"{gain.site} ({show_difference(gain.difference)})" for gain in gains if gain.difference < 0
    ]
    better = sum(gain.difference > 0 for gain in gains)
    where = f"{better} of {plural(len(gains), 'hospital')} that joined later"
    losers = f" It does worse at {join_words(worse)}." if worse else ""
    return f"The refined model does better than {baseline} at {where}.{losers}"


def tell_distance(distance: float | None, fallback: str) -> str:
    """Tell how far the nearest hospital is."""
    if fallback or distance is None:
        return fallback
    return f"{'near' if distance < NEAR else 'far'} ({distance:.2f})"


def tell_membership(found: Sequence[MembershipEvent]) -> str:
    """Tell what the table shows: which other hospitals noticed, and how long it took."""
    counted = [(each, each.moved.others) for each in found if each.moved is not None]
    if not counted:
        return ""
    noticed = [(each, others) for each, others in counted if others]
    which = f"any of these {len(counted)} events" if len(counted) > 1 else "this event"
    words = [] if noticed else [f"No other hospital sent or received a byte at {which}."]
    for each, others in noticed:
        moved = list_bytes(others)
        words.append(f"When {each.site} {each.what}, other hospitals sent or received: {moved}.")
    seconds = [each.seconds for each in found if each.seconds is not None]
    if seconds:
        most = " at most" if len(seconds) > 1 else ""
        took = show_seconds(max(seconds))
        words.append(f"From the first question to the arrival of the model it took {took}{most}.")
    for each in found:
        if each.why == WITHDRAWAL and each.recalculated is not None:
            models = f"{plural(each.recalculated, 'model')} {were(each.recalculated)}"
            words.append(
                f"After {each.site} left, {models} recalculated without it. A hospital keeps its "
                "model until it sends a new contribution or joins again."
            )
    return " ".join(words)


def tell_choice(state: RefinementState, measure: str) -> str:
    """Tell which recipe was chosen, and how far ahead it is."""
    tried = {trial.recipe: trial.mean for trial in state.choice.left_out if trial.mean is not None}
    if not tried:
        return ""
    decision = state.choice.newcomers
    recipe = decision.recipe if decision else next(iter(tried))
    score = f" ({measure} {show_score(tried[recipe])})" if recipe in tried else ""
    words = f"Hospitals that join later get “{recipe}”{score}."
    if decision is not None and decision.gain is not None:
        return f"{words} {tell_decision(decision)}"
    if recipe in tried and recipe != UNIFORM and UNIFORM in tried:
        gain = show_difference(subtract(tried[recipe], tried[UNIFORM]))
        words += f" The difference from the uniform mean is {gain}."
    return words


def tell_decision(decision: DecisionState) -> str:
    """Tell why models of one's own, or one model for everybody, were taken."""
    if decision.gain is None:
        return ""
    error = "an unknown error" if decision.error is None else show_score(decision.error)
    gain = f"{show_difference(decision.gain)} with a standard error of {error}"
    if decision.is_common:
        return (
            f"Models of their own would gain {gain}. That is not more than the error, so "
            "everybody gets the same model."
        )
    kept = ""
    if decision.loses:
        sites = join_words(decision.loses)
        kept = f" That is not shown for {sites}: there the model for everybody is kept."
    return f"Models of their own gain {gain}.{kept}"


def tell_advice(
    gains: Sequence[Gain], baseline: str, decisions: Sequence[DecisionState | None]
) -> str:
    """Advise the baseline where the run's own figures say so; empty where they do not.

    Args:
        gains: Of all hospitals with both scores.
        baseline: What is compared with, in words.
        decisions: What was taken for newcomers and for contributors.
    """
    mean = fmean(gain.difference for gain in gains) if gains else 0.0
    hurt = [gain.site for gain in gains if gain.difference < -HURT]
    if gains and mean <= -NO_CLEAR_DIFFERENCE:
        loss = show_difference(round(mean, 3))
        return f"Use {baseline}: with refined models the mean over hospitals changes by {loss}."
    if hurt:
        where = join_words(hurt)
        return f"At {where}, use {baseline}: the refined model loses more than {HURT:g} there."
    known = [decision for decision in decisions if decision is not None]
    if known and all(decision.is_common for decision in known):
        return (
            "In this run refinement found no reason for models of their own. Averaging alone "
            "gives as much for less."
        )
    return ""


def _number(count: int) -> str:
    return (NUMBERS[count] if count < len(NUMBERS) else str(count)).capitalize()
