"""The one guard where answers are taken, and what readers of answers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from flwr.app import Array, ArrayRecord, Message
from pydantic import BeforeValidator, Field, ValidationError

from polyclinic.errors import AnswerRefused, PolyclinicError
from polyclinic.federation.envelope.content import unpack_message
from polyclinic.federation.envelope.mapped_array import LazyArray, check_array
from polyclinic.federation.run_state import explain
from polyclinic.store.requirements import MOST_EXAMPLES
from polyclinic.system.text import clean

REASON_CHARACTERS = 500
WORD_CHARACTERS = 100  # of a modality, a version, a label
LONGEST_S = 366 * 86400.0

Value = TypeVar("Value")
CLEAN = BeforeValidator(lambda value: clean(value) if isinstance(value, str) else value)
Word = Annotated[str, CLEAN, Field(max_length=WORD_CHARACTERS)]
Cases = Annotated[int, Field(strict=True, ge=0, le=MOST_EXAMPLES)]


@dataclass(frozen=True)
class Failure:
    """An answer that is of no use.

    Attributes:
        reason: What the hospital says is wrong with it, or what is wrong with its answer.
        told: Whether the hospital said so itself.
    """

    reason: str
    told: bool = False


def take(reply: Message, read: Callable[[Message], Value]) -> Value | Failure:
    """Read a hospital's answer.

    Args:
        reply: As it arrived.
        read: One of the readers of this module, or of a method's messages.

    Returns:
        What `read` returns, or why there is nothing to return. It never raises.
    """
    if reply.has_error():
        return Failure(_short(reply.error.reason), told=True)
    try:
        return read(unpack_message(reply))
    except ValidationError as error:
        return Failure(_short(f"its answer is refused: {explain(error)}"))
    except PolyclinicError as error:
        return Failure(_short(f"its answer is refused: {error}"))
    except Exception as error:
        name = type(error).__name__
        return Failure(_short(f"its answer cannot be read ({name}: {error})"))


def record_of(message: Message, name: str, kind: type[Value]) -> Value:
    """Return a record of an answer.

    Raises:
        AnswerRefused: There is none of that name and kind.
    """
    found = message.content.get(name)
    if not isinstance(found, kind):
        raise AnswerRefused(f"it holds no {kind.__name__} '{name}'")
    return found


def array_of(record: ArrayRecord, name: str, dtype: str, length: int | None) -> Array:
    """Return a record's only array, a flat one, after a look at its bytes.

    Args:
        record: Of an answer.
        name: Of the array.
        dtype: Type that its numbers must have.
        length: Count of numbers that it must have; None for any.

    Raises:
        AnswerRefused: It is another one, or damaged.
    """
    if list(record) != [name]:
        raise AnswerRefused(f"one array '{name}' was expected")
    array = record[name]
    shape = tuple(array.shape)
    if array.dtype != dtype or len(shape) != 1 or (length is not None and shape != (length,)):
        wanted = "any count of" if length is None else f"{length:,}"
        raise AnswerRefused(
            f"the array '{name}' is {clean(array.dtype)[:20]} {str(shape)[:80]}, expected are "
            f"{wanted} numbers of {dtype}"
        )
    if not isinstance(array, LazyArray):  # those were checked when they arrived
        check_array(array.dtype, shape, memoryview(array.data))
    return array


def _short(text: object) -> str:
    return clean(text)[:REASON_CHARACTERS]
