"""Reasons why a client of a segmentation service gets no label map, a type for each.

The tree of errors is drawn in `polyclinic.errors`.
"""

from collections.abc import Sequence

from polyclinic.errors import ConfigError, LinkError, ServerUnreachable
from polyclinic.store.refusals import shown


class ServiceMismatch(ConfigError):
    """A generator and a service that were not made for each other."""

    def __init__(self, address: str, differences: Sequence[str]) -> None:
        super().__init__(
            f"The segmentation service at {address} and this generator do not belong together: "
            f"{'; '.join(differences)}. Nothing was sent. Use the generator that was trained with "
            "the service's model (--generator FILE), or the address of its service (--server)."
        )


class ServiceUnreachable(ServerUnreachable):
    """Nobody answers at the service's address."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.args = (
            f"No segmentation service answers at {address} ({problem}). Check the address "
            "(--server HOST:PORT), that `polyclinic-server segment-service` is up, and that the "
            "firewall lets this machine dial out to that port.",
        )


class ServiceBusy(LinkError):
    """No answer, however often it was asked."""

    def __init__(self, address: str, waited_s: float, problem: str) -> None:
        super().__init__(
            f"The segmentation service at {address} gave no answer within {waited_s:.0f} s "
            f"({shown(problem)}). Run the same command again later: results that exist are left "
            "alone. --wait SECONDS waits longer."
        )


class RequestRefused(LinkError):
    """The service does not take what it was sent, or cannot answer it."""

    def __init__(self, address: str, code: str, sentence: str) -> None:
        super().__init__(
            f"The segmentation service at {address} refused the request ({code}): "
            f"{shown(sentence, 300)}"
        )


class AnswerInvalid(LinkError):
    """What came back is not an answer to what was sent."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(
            f"The answer of the segmentation service at {address} is of no use: {problem}. Nothing "
            "was written. Install the same version of polyclinic on both sides; if that is so, "
            "report it to whoever runs the service."
        )
