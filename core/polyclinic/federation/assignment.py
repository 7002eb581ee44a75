"""What a hospital is asked to contribute to, and what became of what it handed over.

A hospital trains for as long as it likes, so an assignment also lies on its disk, as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass as validated

from polyclinic.config.release import MinSubjects, NoiseMultiplier, Release
from polyclinic.config.schemas import STRICT
from polyclinic.config.validation import validate
from polyclinic.federation.records import Order, Word
from polyclinic.system.durable import DIGEST

Digest = Annotated[str, Field(strict=True, pattern=f"^{DIGEST.pattern}$")]
Names = Annotated[tuple[Word, ...], Field(max_length=64)]  # of statistics
MOST_RANK = 1024  # of a contribution's factors
Rank = Annotated[int, Field(strict=True, ge=0, le=MOST_RANK)]
REASON_CHARACTERS = 1000
FAILED = "failed: "  # begins what a hospital says of work that it has given up


@validated(frozen=True, config=STRICT)
class Verdict:
    """The coordinator's word on a contribution that a hospital handed over.

    Attributes:
        digest: Identity of the contribution.
        accepted: Whether it counts.
        reason: Why it does not; empty where it does.
    """

    digest: Digest
    accepted: Annotated[bool, Field(strict=True)]
    reason: Annotated[str, AfterValidator(lambda text: text[:REASON_CHARACTERS])] = ""


NEWER = ("summed", "variances", "rank")  # fields that 0.1.0 has not


@validated(frozen=True, config=STRICT)
class Assignment:
    """A request for a contribution.

    Attributes:
        order: What network and data are; its `rounds` are passes over the training cases.
        base: Digest of the model that the hospital starts from.
        task: What the contribution is for; two tasks never mix.
        ledger: Identity of the ledger that keeps contributions.
        statistics: Names of what is wanted besides the task vector.
        min_subjects: No mean over fewer subjects is asked for, see `polyclinic.config.release`.
        noise_multiplier: Noise on such means, likewise.
        summed: Whether the contribution goes into a secure sum, and is not handed over itself.
        variances: Whether the variance of each such mean is wanted, too; hospitals of 0.1.0 do not
            read this, and send none.
        rank: Of the factors that are trained and handed over instead of a layer; 0: whole.
    """

    order: Order
    base: Digest
    task: Word
    ledger: Digest
    statistics: Names = ()
    min_subjects: MinSubjects = 3
    noise_multiplier: NoiseMultiplier = 0.0
    summed: Annotated[bool, Field(strict=True)] = False
    variances: Annotated[bool, Field(strict=True)] = False
    rank: Rank = 0

    @property
    def release(self) -> Release:
        """What may leave of the hospital's statistics, as far as the coordinator asks."""
        return Release(self.min_subjects, self.noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the hospital's disk."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        # as earlier versions wrote it, so that their work counts
        if not values["order"]["protections"]:
            del values["order"]["protections"]
        if values["order"]["patients"] is None:
            del values["order"]["patients"]
        return {name: each for name, each in values.items() if name not in NEWER or each}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Assignment":
        """Make an assignment of plain values, also of those that 0.1.0 wrote.

        Raises:
            ConfigError: A value is missing, of another kind, or beyond its bound.
        """
        return validate(cls, values, "assignment.")


@dataclass(frozen=True)
class Handover:
    """A hospital's answer to the question for its contribution.

    Attributes:
        needs_base: Whether it lacks the model to start from.
        doing: What it is doing, in words.
        digest: Identity of the contribution that comes along; empty if none is ready.
        content: The contribution's file.
    """

    needs_base: bool = False
    doing: str = ""
    digest: str = ""
    content: bytes = field(default=b"", repr=False)

    @property
    def has_failed(self) -> bool:
        """Whether the hospital has given up."""
        return self.doing.startswith(FAILED)
