"""The answer to a greeting."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from flwr.app import ConfigRecord, Message
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from polyclinic.federation.answers.guard import CLEAN, Cases, Word, record_of
from polyclinic.federation.envelope.content import CONFIG
from polyclinic.federation.records import Hello
from polyclinic.security.kit import SITE_NAME

REFUSAL_CHARACTERS = 1000


def _site(value: str) -> str:
    if not SITE_NAME.fullmatch(value):
        raise ValueError("not a hospital's name")
    return value


class _Hello(BaseModel):
    """The bounds of a greeting's answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    site: Annotated[str, AfterValidator(_site)]
    version: Word = ""
    modality: Word = ""
    refusal: Annotated[str, CLEAN] = ""
    mode: Literal["train", "describe"] = "train"
    task: Annotated[str, CLEAN, Field(max_length=REFUSAL_CHARACTERS)] = ""
    counts: Mapping[Literal["training", "validation", "test"], Cases]


def read_hello(message: Message) -> Hello:
    """Read what a hospital says of itself.

    Raises:
        AnswerRefused: It is no answer to a greeting.
        pydantic.ValidationError: A field is missing, of another kind, or beyond its bounds.
    """
    flat: dict[str, Any] = dict(record_of(message, CONFIG, ConfigRecord))
    counts = {
        key.removeprefix("count."): value for key, value in flat.items() if key.startswith("count.")
    }
    found = _Hello(**{**flat, "counts": counts})
    return Hello(
        found.site,
        found.version,
        dict(found.counts.items()),
        found.modality,
        found.refusal[:REFUSAL_CHARACTERS],
        found.mode,
        found.task,
    )
