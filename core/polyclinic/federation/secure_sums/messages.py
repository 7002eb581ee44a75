"""The questions and answers of a secure sum, packed as Flower's messages.

| question | carries | the answer carries |
|---|---|---|
| `train.sum` | order, weights, `Terms` | figures and an `Offer`; or the vector in the clear |
| `query.offer` | `OfferQuestion`, `Terms` | the same, of a contribution that is ready |
| `query.share` | `ShareQuestion` | `SharedAnswer` |
| `query.mask` | `MaskQuestion` | the masked vector |
| `query.survive` | `SurviveQuestion` | `SignedAnswer` |
| `query.reveal` | `RevealQuestion` | `RevealedAnswer` |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as validated

from polyclinic.config.schemas import STRICT
from polyclinic.errors import AnswerRefused
from polyclinic.federation.answers import Figures, array_of, read_figures, record_of
from polyclinic.federation.assignment import Digest
from polyclinic.federation.envelope import BufferArray, array_values
from polyclinic.federation.envelope.content import ARRAYS, CONFIG, METRICS
from polyclinic.federation.records import Word, config_of, read_values
from polyclinic.federation.secure_sums.masks import Words
from polyclinic.federation.secure_sums.shamir import SHARE_BYTES
from polyclinic.federation.secure_sums.terms import Key, Offer, Session, Signature, Site, Terms

TRAIN, OFFER, SHARE, MASK, SURVIVE, REVEAL = (
    "train.sum",
    "query.offer",
    "query.share",
    "query.mask",
    "query.survive",
    "query.reveal",
)
PREFIX, WORDS, KEYS = "sum.", "words", "offer"
MOST = 10_000  # hospitals in a sum
SEALED_BYTES = 2 * SHARE_BYTES + 16  # with the cipher's tag

Sites = Annotated[tuple[Site, ...], Field(max_length=MOST)]
Signatures = Annotated[tuple[Signature, ...], Field(max_length=MOST)]
Keys = Annotated[tuple[Key, ...], Field(max_length=MOST)]
Identities = Annotated[
    tuple[Annotated[bytes, Field(strict=True, max_length=1000)], ...], Field(max_length=MOST)
]
Sealed = Annotated[bytes, Field(strict=True, min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
Share = Annotated[bytes, Field(strict=True, min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Value = TypeVar("Value")


class Rows:
    """Lists of one message that belong together, entry by entry; the first is of names."""

    def __post_init__(self) -> None:
        lists = [each for each in vars(self).values() if isinstance(each, tuple)]
        if len({len(each) for each in lists}) > 1 or len(set(lists[0])) < len(lists[0]):
            raise ValueError("lists of other lengths, or a hospital that is named twice")


@validated(frozen=True, config=STRICT)
class OfferQuestion:
    """Which contribution is to be summed, and the model and the task that it must be for."""

    digest: Digest
    base: Digest
    task: Word


@validated(frozen=True, config=STRICT)
class ShareQuestion(Rows):
    """Everybody's offer, a column for each of its fields."""

    session: Session
    sites: Sites
    identities: Identities
    ciphers: Keys
    masks: Keys
    signatures: Signatures

    @classmethod
    def of(cls, session: str, offers: Sequence[Offer]) -> "ShareQuestion":
        """Make the question."""
        rows = [(o.site, o.identity, o.cipher, o.mask, o.signature) for o in offers]
        return cls(session, *zip(*rows, strict=True))

    def offers(self) -> list[Offer]:
        """Return the offers."""
        columns = (self.sites, self.identities, self.ciphers, self.masks, self.signatures)
        return [Offer(*row) for row in zip(*columns, strict=True)]


@validated(frozen=True, config=STRICT)
class SharedAnswer(Rows):
    """Encrypted shares by receiver, and the signature over the list of offers."""

    sites: Sites
    sealed: Annotated[tuple[Sealed, ...], Field(max_length=MOST)]
    signature: Signature


@validated(frozen=True, config=STRICT)
class MaskQuestion(Rows):
    """Encrypted shares by sender, and the senders' signatures over the list of offers."""

    session: Session
    sites: Sites
    sealed: Annotated[tuple[Sealed, ...], Field(max_length=MOST)]
    signatures: Signatures


@validated(frozen=True, config=STRICT)
class SurviveQuestion(Rows):
    """Those whose vectors arrived."""

    session: Session
    sites: Sites


@validated(frozen=True, config=STRICT)
class SignedAnswer:
    """The signature over the list of those whose vectors arrived."""

    signature: Signature


@validated(frozen=True, config=STRICT)
class RevealQuestion(Rows):
    """The hospitals' signatures over that list."""

    session: Session
    sites: Sites
    signatures: Signatures


@validated(frozen=True, config=STRICT)
class RevealedAnswer(Rows):
    """One share of each hospital."""

    sites: Sites
    shares: Annotated[tuple[Share, ...], Field(max_length=MOST)]


@dataclass(frozen=True)
class Offered:
    """The answer of a hospital whose update goes into a sum.

    Attributes:
        figures: What the hospital measured.
        offer: Its keys; None where vectors travel in the clear.
        words: The quantized vector, where it travels in the clear.
    """

    figures: Figures
    offer: Offer | None = None
    words: Words | None = None


def to_config(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the scalars and lists of a question, or of terms."""
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {
        f"{prefix}{name}": list(each) if isinstance(each, tuple) else each
        for name, each in found.items()
    }


def read_asked(schema: type[Value], message: Message, prefix: str = "") -> Value:
    """Read a question, or the `Terms` in one.

    Raises:
        ConfigError: A value is missing, of another kind, or beyond its bound.
    """
    found = _chosen(schema, config_of(message), prefix)
    return read_values(schema, found, prefix or PREFIX)


def terms_of(message: Message) -> Terms:
    """Read the terms in a question.

    Raises:
        ConfigError: A value is missing, of another kind, or beyond its bound.
    """
    return read_asked(Terms, message, PREFIX)


def answer(message: Message, value: Any) -> Message:
    """Make an answer of scalars and lists."""
    return Message(RecordDict({CONFIG: ConfigRecord(to_config(value))}), reply_to=message)


def read_answer(schema: type[Value], message: Message) -> Value:
    """Read an answer of scalars and lists.

    Raises:
        AnswerRefused: It is another answer.
        pydantic.ValidationError: A value is missing, of another kind, or beyond its bound.
    """
    flat = dict(record_of(message, CONFIG, ConfigRecord))
    return TypeAdapter(schema).validate_python(_chosen(schema, flat, ""))


def offered_reply(message: Message, offer: Offer, figures: Mapping[str, float] = {}) -> Message:
    """Make the answer to `train.sum` or `query.offer`: figures and keys."""
    content: dict[str, Any] = {METRICS: MetricRecord(dict(figures))} if figures else {}
    keys = ConfigRecord(to_config(offer))
    return Message(RecordDict({KEYS: keys, **content}), reply_to=message)


def words_reply(message: Message, words: Words, figures: Mapping[str, float] = {}) -> Message:
    """Make the answer to `query.mask`; or to `train.sum` where vectors travel in the clear."""
    record = ArrayRecord()  # given a dictionary, it would copy the array
    record[WORDS] = BufferArray(words)
    content: dict[str, Any] = {METRICS: MetricRecord(dict(figures))} if figures else {}
    return Message(RecordDict({ARRAYS: record, **content}), reply_to=message)


def read_offer(site: str, message: Message, numbers: int, *, masked: bool) -> Offered:
    """Read the answer to `query.offer`.

    Raises:
        AnswerRefused: It is another answer.
        pydantic.ValidationError: A value is beyond its bounds.
    """
    return _read_offered(site, message, numbers, masked, Figures.model_construct())


def read_offered(site: str, message: Message, numbers: int, *, masked: bool) -> Offered:
    """Read the answer to `train.sum`.

    Raises:
        AnswerRefused: It is another answer, or it trained on no examples.
        pydantic.ValidationError: A value is beyond its bounds.
    """
    figures = read_figures(message)
    if figures.num_examples < 1:
        raise AnswerRefused("it trained on no examples", "Add cases to 'training'.")
    return _read_offered(site, message, numbers, masked, figures)


def _read_offered(
    site: str, message: Message, numbers: int, masked: bool, figures: Figures
) -> Offered:
    if not masked:
        return Offered(figures, words=read_words(message, numbers))
    flat = {**dict(record_of(message, KEYS, ConfigRecord)), "site": site}
    return Offered(figures, TypeAdapter(Offer).validate_python(_chosen(Offer, flat, "")))


def read_words(message: Message, numbers: int) -> Words:
    """Read a vector of so many words.

    Raises:
        AnswerRefused: It is another one.
    """
    record = record_of(message, ARRAYS, ArrayRecord)
    values = array_values(array_of(record, WORDS, "uint32", numbers))
    words: Words = np.ascontiguousarray(values, dtype=np.uint32)
    return words


def check_sites(found: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse an answer that is about other hospitals than it was asked about.

    Raises:
        AnswerRefused: It is.
    """
    if sorted(found) != sorted(wanted):
        raise AnswerRefused("it is about other hospitals than it was asked about")


def _chosen(schema: type[Any], flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return those values that a schema has; others come from other versions."""
    names = [field.name for field in fields(schema)]
    return {name: flat[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in flat}
