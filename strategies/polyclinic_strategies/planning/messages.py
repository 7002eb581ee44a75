"""Messages about fingerprints: `query.describe`, whose answer holds means and a number."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import BaseModel, ConfigDict, Field

from polyclinic.config.release import Release
from polyclinic.errors import AnswerRefused
from polyclinic.federation.answers import record_of
from polyclinic.federation.attendance import GREETING_TTL_S
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import CONFIG
from polyclinic.federation.records import Order, order_to_config
from polyclinic.store.requirements import MOST_EXAMPLES
from polyclinic_strategies.planning.bins import Numbers
from polyclinic_strategies.planning.fingerprint import EDGES, NAME, Fingerprint, shapes

DESCRIBE = "query.describe"
MEAN = "mean."  # prefix of the parts' names in a message, as in every description
TOLERANCE = 1e-3  # of a sum of shares
CHECK = "Take the hospital out, or check its version of polyclinic."


class _Told(BaseModel):
    """The bounds of what comes with the means."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    subjects: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)]


def ask_for_fingerprint(order: Order, release: Release, node: int) -> Message:
    """Ask a hospital for its fingerprint.

    Args:
        order: Says what data are.
        release: What may leave, as far as the coordinator asks.
        node: Node that the message goes to.
    """
    config = order_to_config(order)
    config["statistics"] = [NAME]
    config["min-subjects"] = release.min_subjects
    config["noise-multiplier"] = release.noise_multiplier
    return make_message(RecordDict({CONFIG: config}), node, DESCRIBE, ttl=GREETING_TTL_S)


def read_fingerprint(message: Message, channels: int, classes: int) -> Fingerprint:
    """Read a hospital's fingerprint.

    Args:
        message: The answer.
        channels: Number of the images' channels.
        classes: Number of classes.

    Raises:
        AnswerRefused: A part is missing, has another length, or is no mean of shares.
        pydantic.ValidationError: The number of patients is missing or impossible.
    """
    flat: dict[str, Any] = dict(record_of(message, CONFIG, ConfigRecord))
    told = _Told(**flat)
    parts = {
        name: _read_part(flat.get(f"{MEAN}{name}"), name, shape)
        for name, shape in shapes(channels, classes).items()
    }
    return Fingerprint(told.subjects, parts)


def _read_part(data: object, name: str, shape: Sequence[int]) -> Numbers:
    """Read one part, float64, each row a mean of shares.

    Raises:
        AnswerRefused: It is something else.
    """
    if not isinstance(data, bytes) or len(data) != 4 * math.prod(shape):
        raise AnswerRefused(f"its fingerprint lacks '{name}', or it has another length")
    values = np.frombuffer(data, dtype="<f4").astype(np.float64).reshape(shape)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1 + TOLERANCE:
        raise AnswerRefused(f"'{name}' of its fingerprint holds what is no share", CHECK)
    sums = values.sum(-1)
    exact = name in (*EDGES, "classes")  # each case lies in one bin; each voxel has one class
    if sums.max() > 1 + TOLERANCE or (exact and sums.min() < 1 - TOLERANCE):
        raise AnswerRefused(f"the shares in '{name}' of its fingerprint do not add up to 1", CHECK)
    return values
