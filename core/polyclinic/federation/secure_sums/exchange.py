"""The coordinator asks its hospitals, step by step, until it has the sum of their vectors."""

import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from polyclinic.config.schemas import SumsConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.envelope.content import CONFIG
from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.masks import Words
from polyclinic.federation.secure_sums.messages import (
    MASK,
    PREFIX,
    REVEAL,
    SHARE,
    SURVIVE,
    MaskQuestion,
    Offered,
    RevealedAnswer,
    RevealQuestion,
    SharedAnswer,
    ShareQuestion,
    SignedAnswer,
    SurviveQuestion,
    check_sites,
    read_answer,
    read_words,
    to_config,
)
from polyclinic.federation.secure_sums.noise import rho
from polyclinic.federation.secure_sums.terms import FEWEST, Offer, Shares, Terms, check_room

Value = TypeVar("Value")


class Asking(Protocol):
    """A grid that asks hospitals; `polyclinic.federation.grids.reliable_grid.ReliableGrid`."""

    def ask(
        self,
        kind: str,
        contents: Mapping[str, RecordDict],
        read: Callable[[str, Message], Value],
        minimum: int,
        phase: str = "",
    ) -> dict[str, Value]:
        """Ask hospitals, and return what was read of their answers, by site."""
        ...


def make_terms(sums: SumsConfig) -> Terms:
    """Make the terms of a new sum, with a name that nobody can guess."""
    least = max(FEWEST, sums.least_hospitals)
    sigma = sums.noise_multiplier * sums.clipping_norm / math.sqrt(least)
    return Terms(
        secrets.token_hex(16),
        sums.clip,
        sums.bits,
        least,
        sums.masked,
        sums.clipping_norm,
        sigma,
    )


def concentrated(terms: Terms, hospitals: int, numbers: int) -> float:
    """Return the concentrated differential privacy of one sum; 0 without noise."""
    if terms.sigma == 0:
        return 0.0
    return rho(terms.grid, terms.norm, terms.sigma, hospitals, numbers)


def check_protection(sums: SumsConfig) -> None:
    """Refuse settings that protect nobody.

    Raises:
        ConfigError: They do not.
    """
    if sums.masked and sums.least_hospitals < FEWEST:
        raise ConfigError(
            f"privacy.sums.least_hospitals={sums.least_hospitals}: in a sum of two, each hospital "
            f"knows the other's update. At least {FEWEST}."
        )
    if sums.noise_multiplier > 0 and not sums.masked:
        raise ConfigError(
            "privacy.sums.noise_multiplier without privacy.sums.masked: each hospital's own noise "
            "is too little to protect it, only the sum has enough."
        )
    if (sums.noise_multiplier > 0) != (sums.clipping_norm > 0):
        raise ConfigError(
            "privacy.sums.noise_multiplier and privacy.sums.clipping_norm need each other: noise "
            "protects updates of bounded length, and a bound alone protects nobody."
        )


def add_up(
    grid: Asking,
    collector: Collector,
    answers: Mapping[str, Offered],
    order: Mapping[str, Any],
) -> tuple[Words, list[str]]:
    """Return the sum of the vectors of hospitals that answered, and who is in it.

    Args:
        grid: Asks the hospitals.
        collector: Has the terms.
        answers: The hospitals' keys; or their vectors, where these travel in the clear.
        order: Scalars of what the hospitals were asked for, so that each step says for what it is.

    Raises:
        TooFewHospitals, TooFewInSum, AnswerRefused: See `take_sum`.
        TooManyInSum: There are more than a word has room for.
    """
    if collector.terms.masked:
        offers = {site: each.offer for site, each in answers.items() if each.offer is not None}
        return take_sum(grid, collector, offers, order), collector.survivors
    check_room(len(answers), collector.terms)
    total: Words = np.zeros(collector.numbers, dtype=np.uint32)
    for each in answers.values():
        if each.words is not None:
            np.add(total, each.words, out=total)
    return total, sorted(answers)


def take_sum(
    grid: Asking, collector: Collector, offers: Mapping[str, Offer], order: Mapping[str, Any]
) -> Words:
    """Carry out all steps after the offers.

    Args:
        grid: Asks the hospitals.
        collector: Has the terms; afterwards its `survivors` are those in the sum.
        offers: Keys of the hospitals that take part.
        order: Scalars of what the hospitals were asked for.

    Returns:
        The sum modulo 2^32.

    Raises:
        TooFewHospitals: Too few answered in some step.
        TooFewInSum: Too few made an offer.
        AnswerRefused: The shares that hospitals revealed give no secret.
    """
    session, shown = collector.terms.session, collector.take_offers(offers)
    receivers = list(collector.offers)
    named = {**order, **to_config(collector.terms, PREFIX)}
    steps = _Steps(grid, named, collector.needed)

    def read_shares(site: str, message: Message) -> Shares:
        found = read_answer(SharedAnswer, message)
        check_sites(found.sites, [name for name in receivers if name != site])
        return Shares(dict(zip(found.sites, found.sealed, strict=True)), found.signature)

    question = ShareQuestion.of(session, shown)
    collector.take_shares(steps.ask(SHARE, dict.fromkeys(receivers, question), read_shares))

    def read_masked(site: str, message: Message) -> None:
        collector.add(site, read_words(message, collector.numbers))

    masks = {}
    for site in collector.shared:
        sealed, signed = collector.shares_for(site)
        masks[site] = MaskQuestion(
            session, tuple(sealed), tuple(sealed.values()), tuple(signed.values())
        )
    steps.ask(MASK, masks, read_masked)

    survivors = SurviveQuestion(session, tuple(collector.survivors))
    collector.take_signatures(
        steps.ask(
            SURVIVE,
            dict.fromkeys(collector.survivors, survivors),
            lambda _site, message: read_answer(SignedAnswer, message).signature,
        )
    )

    def read_revealed(_site: str, message: Message) -> dict[str, bytes]:
        found = read_answer(RevealedAnswer, message)
        check_sites(found.sites, collector.shared)
        return dict(zip(found.sites, found.shares, strict=True))

    signatures = collector.signatures
    reveal = RevealQuestion(session, tuple(signatures), tuple(signatures.values()))
    collector.take_revealed(steps.ask(REVEAL, dict.fromkeys(signatures, reveal), read_revealed))
    return collector.total()


class _Steps:
    """Asks the question of each step.

    Args:
        grid: Asks the hospitals.
        named: Scalars that every question carries.
        needed: Number of hospitals that must answer.
    """

    def __init__(self, grid: Asking, named: Mapping[str, Any], needed: int) -> None:
        self._grid, self._named, self._needed = grid, named, needed

    def ask(
        self, kind: str, questions: Mapping[str, Any], read: Callable[[str, Message], Value]
    ) -> dict[str, Value]:
        """Ask hospitals a step's question each."""
        made: dict[int, RecordDict] = {}  # equal questions share their content
        contents = {}
        for site, question in questions.items():
            if id(question) not in made:
                config = ConfigRecord({**self._named, **to_config(question)})
                made[id(question)] = RecordDict({CONFIG: config})
            contents[site] = made[id(question)]
        return self._grid.ask(kind, contents, read, self._needed)
