"""A refinement run in words: what a physician reads first, whose vectors a model is made of, and what others noticed of it.

Every sentence is computed from the figures, also when refinement did not help.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyclinic.reporting.summary import (
    NO_CLEAR_DIFFERENCE,
    join_words,
    plural,
    show,
    show_difference,
)
from polyclinic_strategies.merging.report.timeline import show_span
from polyclinic_strategies.refinement.report.membership_events import WITHDRAWAL, Occasion
from polyclinic_strategies.refinement.report.record import Record

NUMBERS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
NAMED_SHARES = 4
NEAR = 1.0  # the median distance between two hospitals that took part


@dataclass(frozen=True)
class Gain:
    """One hospital's score with the model that everybody gets, and with its own refined one."""

    site: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Of the three decimals that are shown."""
        return round(round(self.after, 3) - round(self.before, 3), 3)


def tell_lead(
    measure: str,
    joined: int,
    trained: int,
    before: float | None,
    after: float | None,
    baseline: str,
) -> str:
    """The result in one sentence: `joined` and `trained` are how many hospitals the two means are over; one of them is 0."""
    if after is None or not joined + trained:
        return "There are no scores of refined models yet."
    count, later = joined or trained, ", without labels and without training," if joined else ""
    who = f"{_number(count)} hospital{'' if count == 1 else 's'} that {'joined later' if joined else 'took part'}{later}"
    got = f"{who} got a model of {'its' if count == 1 else 'their'} own"
    if before is None:
        return f"{got}: {measure} {show(after)}; there is nothing to compare it with."
    gain = round(after, 3) - round(before, 3)
    if abs(gain) < NO_CLEAR_DIFFERENCE:
        return f"{got}, but that made no clear difference: {measure} {show(after)}, and {show(before)} with {baseline}."
    if gain < 0:
        return f"{got}, but that did not help: {measure} {show(after)}, against {show(before)} with {baseline}."
    return f"{got}: {measure} {show(after)} instead of {show(before)} with {baseline}."


def tell_gains(gains: Sequence[Gain], baseline: str) -> str:
    """How many hospitals gained, and who lost."""
    if not gains:
        return ""
    worse = [
        f"{gain.site} ({show_difference(gain.difference)})" for gain in gains if gain.difference < 0
    ]
    losers = f"; it did worse at {join_words(worse)}" if worse else ""
    better = sum(gain.difference > 0 for gain in gains)
    return f"The refined model did better than {baseline} at {better} of {plural(len(gains), 'hospital')} that joined later{losers}."


def tell_shares(shares: Mapping[str, float]) -> str:
    """Whose vectors a model is made of, the largest share first."""
    ordered = sorted(
        ((site, share) for site, share in shares.items() if share > 0),
        key=lambda pair: (-pair[1], pair[0]),
    )
    if not ordered:
        return "nothing"
    if len(ordered) > 1 and math.isclose(ordered[0][1], ordered[-1][1], rel_tol=1e-6):
        names = join_words([site for site, _ in ordered])
        return f"equal shares of {names if len(ordered) <= NAMED_SHARES else plural(len(ordered), 'hospital')}"
    shown = [(site, share) for site, share in ordered if share >= 0.005]
    named = shown if len(shown) <= NAMED_SHARES else shown[: NAMED_SHARES - 1]
    words = [f"{round(100 * share)} % {site}" for site, share in named]
    rest = math.fsum(share for _, share in shown[len(named) :])
    return ", ".join(
        words
        + (
            [f"{round(100 * rest)} % of {len(shown) - len(named)} others"]
            if len(shown) > len(named)
            else []
        )
    )


def tell_distance(distance: float | None, fallback: str) -> str:
    """How far the nearest hospital is, in plain words."""
    if fallback or distance is None:
        return fallback
    return f"{'near' if distance < NEAR else 'far'} ({distance:.2f})"


def tell_occasions(occasions: Sequence[Occasion]) -> str:
    """What came out of the table: who else noticed, and how fast it was."""
    counted = [each for each in occasions if each.traffic is not None]
    if not counted:
        return ""
    words = []
    moved = [each for each in counted if each.traffic and each.traffic.others]
    if not moved:
        at = f"at any of these {len(counted)} occasions" if len(counted) > 1 else "at this occasion"
        words.append(f"Nobody else sent or received a byte for it {at}.")
    for each in moved:
        others = each.traffic.others if each.traffic else {}
        words.append(
            f"When {each.site} {each.what}, others sent or received too: {list_bytes(others)}."
        )
    times = [each.seconds for each in occasions if each.seconds is not None]
    if times:
        words.append(
            f"From the first question to the model's arrival it took {show_seconds(max(times))}{' at most' if len(times) > 1 else ''}."
        )
    for each in occasions:
        if each.why == WITHDRAWAL and each.recalculated is not None:
            words.append(
                f"After {each.site} left, {plural(each.recalculated, 'model')} {'was' if each.recalculated == 1 else 'were'} recalculated "
                "without it; a hospital keeps the model that it has until it hands in or joins again."
            )
    return " ".join(words)


def tell_choice(record: Record, measure: str) -> str:
    """What was chosen, and how far ahead it is."""
    tried = [trial for trial in record.left_out if trial.mean is not None]
    if not tried or tried[0].mean is None:
        return ""
    words = (
        f"For hospitals that join later it is “{tried[0].recipe}” ({measure} {show(tried[0].mean)})"
    )
    uniform = next((trial.mean for trial in tried[1:] if trial.recipe == "uniform mean"), None)
    if uniform is not None:
        words += f", {show_difference(round(tried[0].mean, 3) - round(uniform, 3))} beside the same share of everybody"
    return f"{words}."


def list_bytes(moved: Mapping[str, int]) -> str:
    """Who moved how much."""
    return join_words([f"{site} {show_bytes(count)}" for site, count in sorted(moved.items())])


def show_bytes(count: int) -> str:
    """A number of bytes as a person says it."""
    if count < 1000:
        return f"{count} B" if count else "0"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 999.5 * factor or unit == "GB":
            return f"{count / factor:.3g} {unit}"
    raise AssertionError


def show_seconds(seconds: float) -> str:
    """A short time exactly, a long one as a person says it."""
    return (
        f"{seconds:.2f} s"
        if seconds < 1
        else f"{seconds:.1f} s"
        if seconds < 60
        else show_span(seconds)
    )


def _number(count: int) -> str:
    return (NUMBERS[count] if count < len(NUMBERS) else str(count)).capitalize()
