"""Reasons for refusing a contribution: one error type for each.

`polyclinic.errors` shows the tree. Every sentence uses only what the hospital itself sent and what
the coordinator requires, so it may travel back to the hospital. Names that a hospital chose are
shortened, and control characters are escaped.
"""

from collections.abc import Sequence

from polyclinic.errors import PolyclinicError

SHOWN_NAMES = 3
SHOWN_CHARACTERS = 80


class ContributionRefused(PolyclinicError):
    """The coordinator refuses a contribution; the ledger records the reason."""

    exit_code = 3
    shareable = True


class BaseMismatch(ContributionRefused):
    """A contribution was made on a base that the federation never had."""

    def __init__(self, site: str, expected: str, received: str) -> None:
        super().__init__(
            f"{site}: the task vector is relative to base {shown(received[:12])}, "
            f"the federation's base is {expected[:12]}. Fetch the federation's base and train from "
            "it."
        )


class StaleBase(ContributionRefused):
    """A contribution was made on a base that has been replaced too often since then."""

    def __init__(self, site: str, staleness: int, limit: int) -> None:
        super().__init__(
            f"{site}: its base has been replaced {staleness} times since then, "
            f"the limit is {limit}. Train again from the newest base."
        )


class TensorsMissing(ContributionRefused):
    """The task vector lacks tensors of the base."""

    def __init__(self, site: str, names: Sequence[str]) -> None:
        super().__init__(
            f"{site}: the task vector lacks {listed(names)}. Use the same conf/model on both sides."
        )


class TensorsExtra(ContributionRefused):
    """The contribution holds tensors that the base does not have."""

    def __init__(self, site: str, names: Sequence[str]) -> None:
        super().__init__(
            f"{site}: the contribution holds {listed(names)}, which the base does not have. "
            "Use the same conf/model on both sides."
        )


class StatisticsMissing(ContributionRefused):
    """The contribution lacks statistics that were asked for."""

    def __init__(self, site: str, kinds: Sequence[str]) -> None:
        super().__init__(
            f"{site}: the contribution lacks the statistic {listed(kinds)}, which was asked for. "
            "Install the coordinator's version of polyclinic, and contribute again."
        )


class ShapeRefused(ContributionRefused):
    """A tensor has another shape than in the base."""

    def __init__(self, site: str, name: str, expected: Sequence[int], found: Sequence[int]) -> None:
        super().__init__(
            f"{site}: {shown(name)} has the shape {tuple(found)}, in the base it is "
            f"{tuple(expected)}. Use the same conf/model on both sides."
        )


class TypeRefused(ContributionRefused):
    """A tensor is not float32."""

    def __init__(self, site: str, name: str, found: str) -> None:
        super().__init__(
            f"{site}: {shown(name)} is of type {found}. Task vectors and statistics are float32."
        )


class NotFinite(ContributionRefused):
    """A tensor contains NaN or Inf."""

    def __init__(self, site: str, name: str) -> None:
        cause = "training diverged. Lower training.learning_rate and train again."
        if name.startswith("statistics/"):
            cause = "correct the statistic, or check the images, and send the contribution again."
        super().__init__(f"{site}: {shown(name)} contains NaN or Inf: {cause}")


class NormTooLarge(ContributionRefused):
    """The norm of a task vector is much larger than the others'."""

    def __init__(self, site: str, norm: float, median: float, ratio: float) -> None:
        super().__init__(
            f"{site}: the task vector's norm is {norm:.4g}, more than {ratio:g} times "
            f"the other hospitals' median of {median:.4g}. "
            "Check the labels and the learning rate, then train again."
        )


class UpdateTooLong(ContributionRefused):
    """The norm of a task vector is larger than training can make it."""

    def __init__(self, site: str, norm: float, limit: float) -> None:
        super().__init__(
            f"{site}: the task vector's norm is {norm:.4g}, the limit is {limit:.4g}. "
            "Check the labels and the learning rate, then train again."
        )


class TooManyExamples(ContributionRefused):
    """The contribution claims more training examples than a hospital has."""

    def __init__(self, site: str, claimed: int, limit: int) -> None:
        super().__init__(
            f"{site}: the contribution claims {claimed} training examples, the limit is {limit}. "
            "Correct the number and send it again."
        )


class StatisticRefused(ContributionRefused):
    """A statistic is missing, was not asked for, or is none; `problem` begins with a verb."""

    def __init__(self, site: str, name: str, problem: str) -> None:
        super().__init__(
            f"{site}: the statistic {shown(name)} {problem}. Use the same version of polyclinic "
            "and the same conf/model on both sides, and train again."
        )


class ContributionTooLarge(ContributionRefused):
    """The file is larger than the limit."""

    def __init__(self, site: str, size: int, limit: int) -> None:
        super().__init__(
            f"{site}: the contribution has {size} bytes, the limit is {limit}. "
            "Use the same conf/model on both sides."
        )


class UnknownSite(ContributionRefused):
    """The sender is not one of the federation's hospitals."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"{shown(site)}: not one of this federation's hospitals. Ask the coordinator to add it."
        )


class SiteMismatch(ContributionRefused):
    """One hospital sent a contribution in the name of another."""

    def __init__(self, sender: str, claimed: str) -> None:
        super().__init__(
            f"{sender}: the contribution says that it is from {shown(claimed)}. "
            "A hospital can hand over only its own contributions."
        )


class TaskMismatch(ContributionRefused):
    """A contribution was made for another task than the federation's."""

    def __init__(self, site: str, expected: str, found: str) -> None:
        super().__init__(
            f"{site}: the contribution is for the task {shown(found)}, the federation's task is "
            f"{shown(expected)}. Train for the federation's task."
        )


class ContributionDamaged(ContributionRefused):
    """The file is not a contribution, or not all of it."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(
            f"{shown(where)}: not a readable contribution ({problem}). Make it again with "
            "`contribute` and send it again."
        )


def shown(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Make text that somebody else chose safe to print: shorten it, escape control characters."""
    if len(text) <= characters and text.isprintable():
        return text
    plain = "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}"
        for letter in text[: characters + 1]
    )
    return plain if len(text) <= characters else plain[:characters] + "..."


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    first = ", ".join(shown(name) for name in names[:SHOWN_NAMES])
    return first if len(names) <= SHOWN_NAMES else f"{first} and {len(names) - SHOWN_NAMES} more"
