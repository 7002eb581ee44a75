"""A refinement run in words: what a physician reads first, whose vectors a model is made of, and what others noticed of it.

Every sentence is computed from the figures, also when refinement did not help.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from polyclinic_strategies.refinement.report.membership_events import WITHDRAWAL, MembershipEvent
from polyclinic_strategies.refinement.report.state import RefinementState

NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
NAMED_SHARES = 4
SMALLEST_SHARE = 0.005  # smaller ones are not named
NEAR = 1.0  # the median distance between two hospitals that took part
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
    count, later = joined or trained, ", without labels and without training," if joined else ""
    who = f"{_number(count)} hospital{'' if count == 1 else 's'} that {'joined later' if joined else 'took part'}{later}"
    got = f"{who} got a model of {'its' if count == 1 else 'their'} own"
    if before is None:
        return f"{got}: {measure} {show_score(after)}; there is nothing to compare it with."
    gain = subtract(after, before)
    if abs(gain) < NO_CLEAR_DIFFERENCE:
        return f"{got}, but that made no clear difference: {measure} {show_score(after)}, and {show_score(before)} with {baseline}."
    if gain < 0:
        return f"{got}, but that did not help: {measure} {show_score(after)}, against {show_score(before)} with {baseline}."
    return f"{got}: {measure} {show_score(after)} instead of {show_score(before)} with {baseline}."


def tell_gains(gains: Sequence[Gain], baseline: str) -> str:
    """Tell how many hospitals gained, and who lost."""
    if not gains:
        return ""
    worse = [
        f"{gain.site} ({show_difference(gain.difference)})" for gain in gains if gain.difference < 0
    ]
    losers = f"; it did worse at {join_words(worse)}" if worse else ""
    better = sum(gain.difference > 0 for gain in gains)
    return f"The refined model did better than {baseline} at {better} of {plural(len(gains), 'hospital')} that joined later{losers}."


def tell_shares(shares: Mapping[str, float]) -> str:
    """Tell whose vectors a model is made of, the largest share first."""
    positive = [(site, share) for site, share in shares.items() if share > 0]
    ordered = sorted(positive, key=lambda pair: (-pair[1], pair[0]))
    if not ordered:
        return "nothing"
    if len(ordered) > 1 and math.isclose(ordered[0][1], ordered[-1][1], rel_tol=1e-6):
        names = join_words([site for site, _ in ordered])
        few = len(ordered) <= NAMED_SHARES
        return f"equal shares of {names if few else plural(len(ordered), 'hospital')}"
    shown = [(site, share) for site, share in ordered if share >= SMALLEST_SHARE]
    named = shown if len(shown) <= NAMED_SHARES else shown[: NAMED_SHARES - 1]
    words = [f"{round(100 * share)} % {site}" for site, share in named]
    others = shown[len(named) :]
    if others:
        rest = math.fsum(share for _, share in others)
        words.append(f"{round(100 * rest)} % of {len(others)} others")
    return ", ".join(words)


def tell_distance(distance: float | None, fallback: str) -> str:
    """Tell how far the nearest hospital is."""
    if fallback or distance is None:
        return fallback
    return f"{'near' if distance < NEAR else 'far'} ({distance:.2f})"


def tell_membership(found: Sequence[MembershipEvent]) -> str:
    """Tell what came out of the table: who else noticed, and how fast it was."""
    counted = [(each, each.moved.others) for each in found if each.moved is not None]
    if not counted:
        return ""
    noticed = [(each, others) for each, others in counted if others]
    at = f"at any of these {len(counted)} occasions" if len(counted) > 1 else "at this occasion"
    words = [] if noticed else [f"Nobody else sent or received a byte for it {at}."]
    for each, others in noticed:
        words.append(f"When {each.site} {each.what}, others sent or received too: {list_bytes(others)}.")
    times = [each.seconds for each in found if each.seconds is not None]
    if times:
        most = " at most" if len(times) > 1 else ""
        words.append(f"From the first question to the model's arrival it took {show_seconds(max(times))}{most}.")
    for each in found:
        if each.why == WITHDRAWAL and each.recalculated is not None:
            words.append(
                f"After {each.site} left, {plural(each.recalculated, 'model')} {were(each.recalculated)} recalculated "
                "without it; a hospital keeps the model that it has until it hands in or joins again."
            )
    return " ".join(words)


def tell_choice(state: RefinementState, measure: str) -> str:
    """Tell which recipe was chosen, and how far ahead it is."""
    tried = [(trial.recipe, trial.mean) for trial in state.choice.left_out if trial.mean is not None]
    if not tried:
        return ""
    recipe, best = tried[0]
    words = f"For hospitals that join later it is “{recipe}” ({measure} {show_score(best)})"
    uniform = next((mean for recipe, mean in tried[1:] if recipe == UNIFORM), None)
    if uniform is not None:
        words += f", {show_difference(subtract(best, uniform))} beside the same share of everybody"
    return f"{words}."


def _number(count: int) -> str:
    return (NUMBERS[count] if count < len(NUMBERS) else str(count)).capitalize()
