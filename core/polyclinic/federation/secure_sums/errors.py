"""Why a hospital leaves a sum, and why a sum cannot be taken.

Each sentence uses only what the coordinator sent, and names of hospitals, so that it may travel.
"""

from polyclinic.errors import PolyclinicError


class SumRefused(PolyclinicError):
    """A hospital does not go on with a secure sum."""

    exit_code = 5
    shareable = True


class CoordinatorContradicts(SumRefused):
    """The coordinator told hospitals different things, or said something that cannot be true.

    Args:
        what: What it did.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The coordinator contradicts itself: {what}. This hospital has sent nothing that "
            "reveals its update. Ask the coordinator's people what happened before you go on."
        )


class TooFewInSum(SumRefused):
    """A sum has so few hospitals that it would tell too much about each."""

    def __init__(self, present: int, least: int) -> None:
        super().__init__(
            f"{present} hospitals are left in this secure sum, and it needs {least}. Wait for more "
            "hospitals, or lower privacy.sums.least_hospitals and every hospital's own minimum."
        )


class TooManyInSum(SumRefused):
    """A sum of so many vectors may not fit into its words."""

    def __init__(self, hospitals: int, most: int) -> None:
        super().__init__(
            f"{hospitals} hospitals are in this sum, and its words have room for {most}: lower "
            "privacy.sums.bits by one for twice as many."
        )


class OfferInvalid(SumRefused):
    """A hospital's keys for a sum are not signed as they must be."""

    def __init__(self, site: str, problem: str) -> None:
        super().__init__(f"The keys that the coordinator shows for {site}: {problem}.")


class ShareInvalid(SumRefused):
    """A share of another hospital's secret cannot be read."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"What {site} sent for this hospital cannot be read: {site}, or the coordinator, "
            "changed it. The sum is left before anything of this hospital's update was sent."
        )


class SummedBefore(SumRefused):
    """The same update was part of a sum before, with other hospitals or other noise."""

    def __init__(self) -> None:
        super().__init__(
            "This update was part of a secure sum before: the difference of two sums with other "
            "hospitals, or the mean of two with other noise, could reveal it. Begin a new run with "
            "another seed."
        )


class NotFinite(SumRefused):
    """An update holds NaN or infinite numbers."""

    def __init__(self) -> None:
        super().__init__(
            "This hospital's update contains NaN or Inf: lower training.learning_rate and train "
            "again."
        )
