"""Why a contribution was not accepted: one type for each reason.

The tree is drawn in `polyclinic.errors`. Every sentence is made of what the hospital itself sent
and of what the coordinator asks for, so it may travel back to the hospital; names that a hospital
chose are shortened, and shown without control characters.
"""

from collections.abc import Sequence

from polyclinic.errors import PolyclinicError

SHOWN_NAMES = 3
SHOWN_CHARACTERS = 80


class ContributionRefused(PolyclinicError):
    """The coordinator does not take a contribution; the ledger says why."""

    exit_code = 3
    shareable = True


class BaseMismatch(ContributionRefused):
    """A contribution was made on a base that the federation never had."""

    def __init__(self, site: str, expected: str, received: str) -> None:
        super().__init__(
            f"{site}: the task vector is relative to base {shown(received[:12])}, the federation's "
            f"base is {expected[:12]}. "
            "Fetch the federation's base and train from it."
        )


class StaleBase(ContributionRefused):
    """A contribution was made on a base that has been replaced too often since."""

    def __init__(self, site: str, staleness: int, limit: int) -> None:
        super().__init__(
            f"{site}: its base was replaced {staleness} times since, the limit is {limit}. Train "
            "again from the newest base."
        )


class TensorsMissing(ContributionRefused):
    """Tensors of the base that the task vector lacks."""

    def __init__(self, site: str, names: Sequence[str]) -> None:
        super().__init__(
            f"{site}: the task vector lacks {listed(names)}. Use the same conf/model on both sides."
        )


class TensorsExtra(ContributionRefused):
    """Tensors that the base does not have."""

    def __init__(self, site: str, names: Sequence[str]) -> None:
        super().__init__(
            f"{site}: the contribution holds {listed(names)}, which the base has not. Use the same "
            "conf/model on both sides."
        )


class ShapeRefused(ContributionRefused):
    """A tensor of another shape than the base's."""

    def __init__(self, site: str, name: str, expected: Sequence[int], found: Sequence[int]) -> None:
        super().__init__(
            f"{site}: {shown(name)} has the shape {tuple(found)}, the base's is {tuple(expected)}. "
            "Use the same conf/model on both sides."
        )


class TypeRefused(ContributionRefused):
    """A tensor that is not float32."""

    def __init__(self, site: str, name: str, found: str) -> None:
        super().__init__(
            f"{site}: {shown(name)} is of type {found}. Task vectors and statistics are float32."
        )


class NotFinite(ContributionRefused):
    """NaN or Inf in a tensor."""

    def __init__(self, site: str, name: str) -> None:
        super().__init__(
            f"{site}: {shown(name)} contains NaN or Inf: training diverged. Lower "
            "training.learning_rate and train again."
        )


class NormTooLarge(ContributionRefused):
    """A task vector much longer than everybody else's."""

    def __init__(self, site: str, norm: float, median: float, ratio: float) -> None:
        super().__init__(
            f"{site}: the task vector's norm is {norm:.4g}, more than {ratio:g} times the other "
            f"hospitals' median of {median:.4g}. "
            "Check the labels and the learning rate, then train again."
        )


class ContributionTooLarge(ContributionRefused):
    """More bytes than the limit."""

    def __init__(self, site: str, size: int, limit: int) -> None:
        super().__init__(
            f"{site}: the contribution has {size} bytes, the limit is {limit}. Use the same "
            "conf/model on both sides."
        )


class UnknownSite(ContributionRefused):
    """Not one of the federation's hospitals."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"{shown(site)}: not one of this federation's hospitals. Ask the coordinator to add it."
        )


class SiteMismatch(ContributionRefused):
    """Sent by one hospital in the name of another."""

    def __init__(self, sender: str, claimed: str) -> None:
        super().__init__(
            f"{sender}: the contribution says that it is from {shown(claimed)}. A hospital hands "
            "over only its own."
        )


class TaskMismatch(ContributionRefused):
    """Made for another task than the federation's."""

    def __init__(self, site: str, expected: str, found: str) -> None:
        super().__init__(
            f"{site}: the contribution is for the task {shown(found)}, the federation's is "
            f"{shown(expected)}. Train for that."
        )


class ContributionDamaged(ContributionRefused):
    """Not a contribution, or not all of it."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(
            f"{shown(where)}: not a readable contribution ({problem}). Make it again with "
            "`contribute` and send it again."
        )


def shown(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Text that somebody else chose, safe to print: control characters escaped, shortened."""
    if len(text) <= characters and text.isprintable():
        return text
    plain = "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}"
        for letter in text[: characters + 1]
    )
    return plain if len(text) <= characters else plain[:characters] + "..."


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(shown(name) for name in names[:SHOWN_NAMES])
    return first if len(names) <= SHOWN_NAMES else f"{first} and {len(names) - SHOWN_NAMES} more"
