"""What hospitals and the coordinator tell each other in secure sums, and whom a hospital knows."""

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from polyclinic.errors import ConfigError
from polyclinic.federation.secure_sums.messages import (
    MaskQuestion,
    OfferQuestion,
    RevealedAnswer,
    RevealQuestion,
    SharedAnswer,
    ShareQuestion,
    SignedAnswer,
    SurviveQuestion,
    read_answer,
    read_asked,
    read_offered,
    read_words,
    terms_of,
)
from polyclinic.federation.secure_sums.partners import read_partners
from tests.fuzz.hospital_files import json_file
from tests.fuzz.messages import QUESTION_ERRORS, answer_reader, drawn, envelope, message_of
from tests.fuzz.reader import Reader

SESSION = {"session": "5e" * 16}
SITES = {"sites": ["north", "south"]}
KEYS = [b"k" * 32, b"l" * 32]
SEALED = {"sealed": [b"s" * 148, b"t" * 148]}
SIGNATURES = {"signatures": [b"a" * 103, b"b" * 104]}
TERMS = {
    **{"sum.session": "5e" * 16, "sum.clip": 1.0, "sum.bits": 24, "sum.least": 3},
    "sum.masked": True,
}
OFFER = {"identity": b"pem", "cipher": KEYS[0], "mask": KEYS[1], "signature": b"a" * 103}
TRAINED = {"num-examples": 4, "loss": 0.3, "seconds": 1.5}
FINGERPRINT = f"SHA256:{'a' * 43}"


def _question(name: str, values: dict[str, Any], read: Any) -> Reader:
    records = {"config": values}
    return Reader(
        name,
        envelope(records, answer=False).SerializeToString(),
        drawn(records, answer=False),
        lambda content, folder: read(message_of(content, folder)),
        QUESTION_ERRORS,
    )


def _asked(name: str, schema: type[Any], values: dict[str, Any]) -> Reader:
    return _question(f"sum-{name}", values, lambda message: read_asked(schema, message))


def _answered(name: str, schema: type[Any], values: dict[str, Any]) -> Reader:
    return answer_reader(
        f"sum-{name}", {"config": values}, lambda message: read_answer(schema, message)
    )


def _read_terms(message: Message) -> None:
    terms = terms_of(message)
    assert terms.grid.step > 0 and terms.grid.most >= 1 and terms.least >= 3


def _read_offers(message: Message) -> None:
    offers = read_asked(ShareQuestion, message).offers()
    assert len({offer.site for offer in offers}) == len(offers)


def _read_partners(folder: Path) -> None:
    partners = read_partners(folder)
    assert partners.least >= 3
    assert all(mark.startswith("SHA256:") for mark in partners.keys.values())


READERS = (
    _question("sum-terms", TERMS, _read_terms),
    _question(
        "sum-share",
        {
            **SESSION,
            **SITES,
            **SIGNATURES,
            "identities": [b"pem", b"other"],
            "ciphers": KEYS,
            "masks": KEYS,
        },
        _read_offers,
    ),
    _asked("offer", OfferQuestion, {"digest": "a" * 64, "base": "b" * 64, "task": "brain"}),
    _asked("mask", MaskQuestion, {**SESSION, **SITES, **SEALED, **SIGNATURES}),
    _asked("survive", SurviveQuestion, {**SESSION, **SITES}),
    _asked("reveal", RevealQuestion, {**SESSION, **SITES, **SIGNATURES}),
    _answered("shared", SharedAnswer, {**SITES, **SEALED, "signature": b"a" * 103}),
    _answered("signed", SignedAnswer, {"signature": b"a" * 103}),
    _answered("revealed", RevealedAnswer, {**SITES, "shares": [b"s" * 66, b"t" * 66]}),
    answer_reader(
        "sum-offered",
        {"metrics": TRAINED, "offer": OFFER},
        lambda message: read_offered("north", message, 5, masked=True),
    ),
    answer_reader(
        "sum-words",
        {"arrays": {"words": np.arange(5, dtype=np.uint32)}},
        lambda message: read_words(message, 5),
    ),
    json_file(
        "partners",
        "partners.json",
        {"keys": {"north": FINGERPRINT}, "closed": True, "least": 5},
        _read_partners,
        ConfigError,
    ),
)
