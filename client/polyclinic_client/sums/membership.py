"""A hospital's place in the sum of a round: from its update to what it reveals.

The update and the secrets of a sum are kept in memory alone. A worker that dies has dropped out.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from polyclinic.federation.secure_sums.errors import CoordinatorContradicts, SumRefused
from polyclinic.federation.secure_sums.masks import Words
from polyclinic.federation.secure_sums.member import Member
from polyclinic.federation.secure_sums.messages import (
    MaskQuestion,
    OfferQuestion,
    RevealedAnswer,
    RevealQuestion,
    SharedAnswer,
    ShareQuestion,
    SignedAnswer,
    SurviveQuestion,
)
from polyclinic.federation.secure_sums.noise import add_noise
from polyclinic.federation.secure_sums.partners import read_partners, recognize
from polyclinic.federation.secure_sums.quantization import EXTRA, Reals
from polyclinic.federation.secure_sums.summed import note_sum, words_digest
from polyclinic.federation.secure_sums.terms import Offer, Terms
from polyclinic.learning.state_dict import pack
from polyclinic.store.contribution import TensorFile
from polyclinic_client.site.site import Site
from polyclinic_client.sums.identity import Identity

KEPT = "sum {}"  # of a run, which has one at a time
MOST = 8  # runs whose sums are kept
log = logging.getLogger("polyclinic.sums")
Answer = TypeVar("Answer")
Question = ShareQuestion | MaskQuestion | SurviveQuestion | RevealQuestion


class Prepared(NamedTuple):
    """An update as it goes into a sum.

    Attributes:
        words: The update with its noise, if any, and what was lost.
        digest: Of the update without noise.
    """

    words: Words
    digest: str


def quantize(terms: Terms, trained: Reals, asked: Reals | None = None) -> Prepared:
    """Put an update on the grid, with its noise if there is any.

    Args:
        terms: Of the sum.
        trained: Weights after training, (numbers,).
        asked: Weights that it started from; None where `trained` is the difference already.

    Raises:
        NotFinite: The update holds NaN or infinite numbers.
    """
    found = terms.grid.quantize(trained, asked, terms.norm)
    digest = words_digest(found.words)
    if terms.sigma > 0:  # what was lost stays here: it has no noise
        add_noise(found.words, terms.sigma / terms.grid.step)
        nothing = np.zeros(EXTRA, dtype=np.uint32)
        return Prepared(np.concatenate([found.words, nothing]), digest)
    if found.clipped:
        log.warning(
            "%d of %d numbers of the update are beyond privacy.sums.clip=%g and were shortened",
            found.clipped,
            found.words.size,
            terms.clip,
        )
    return Prepared(terms.grid.with_losses(found), digest)


def ready(site: Site, terms: Terms, question: OfferQuestion) -> Prepared:
    """Quantize the contribution that is ready in the outbox.

    Raises:
        SumRefused: It is not there, or of another base or task than the sum.
    """
    found = site.outbox.find(question.digest)
    if found is None:
        raise SumRefused("This hospital has no such contribution any more: ask it again.")
    with TensorFile(found.path) as file:
        about = file.contribution
        if (about.base, about.task) != (question.base, question.task):
            raise SumRefused(
                "This hospital's contribution is for another base or task than the sum: wait until "
                "it has trained again."
            )
        names = sorted(file.names)
        vector = pack({name: file.task_vector(name) for name in names}, names)
    return quantize(terms, vector.numpy())


def begin(site: Site, identity: Identity, terms: Terms, prepared: Prepared, run: str = "") -> Offer:
    """Take a place in a sum; that in an earlier sum of the same run is given up."""
    place = KEPT.format(run)
    site.kept.pop(place, None)
    for older in _places(site)[: 1 - MOST]:
        site.kept.pop(older)
    member = Member(
        site.name,
        identity.key,
        identity.authority,
        terms,
        prepared.words,
        recognize=partial(recognize, site.state),
        least=read_partners(site.state).least,
        before_reveal=partial(note_sum, site.state, prepared.digest, once=terms.sigma > 0),
    )
    site.kept[place] = member
    return member.offer()


def share(site: Site, question: ShareQuestion) -> SharedAnswer:
    """Share the secrets of a sum; see `Member.share`."""
    found = _insist(site, question, lambda member: member.share(question.offers()))
    return SharedAnswer(tuple(found.sealed), tuple(found.sealed.values()), found.signature)


def mask(site: Site, question: MaskQuestion) -> Words:
    """Return the masked vector; see `Member.mask`."""
    sealed = dict(zip(question.sites, question.sealed, strict=True))
    signatures = dict(zip(question.sites, question.signatures, strict=True))
    return _insist(site, question, lambda member: member.mask(sealed, signatures))


def survive(site: Site, question: SurviveQuestion) -> SignedAnswer:
    """Sign whose vectors are in the sum; see `Member.survive`."""
    return SignedAnswer(_insist(site, question, lambda member: member.survive(question.sites)))


def reveal(site: Site, question: RevealQuestion) -> RevealedAnswer:
    """Reveal one share of each hospital; see `Member.reveal`."""
    signatures = dict(zip(question.sites, question.signatures, strict=True))
    found = _insist(site, question, lambda member: member.reveal(signatures))
    return RevealedAnswer(tuple(found), tuple(found.values()))


def _insist(site: Site, question: Question, ask: Callable[[Member], Answer]) -> Answer:
    """Answer a question about the sum in which this hospital has a place.

    Raises:
        SumRefused: It has no place in that sum; or the coordinator contradicts itself.
    """
    found = {place: site.kept[place] for place in _places(site)}
    place, member = next(
        (each for each in found.items() if each[1].terms.session == question.session), ("", None)
    )
    if member is None:
        raise SumRefused(
            "This hospital has no place in that sum: its worker was started again meanwhile, or "
            "the coordinator began another sum."
        )
    try:
        return ask(member)
    except CoordinatorContradicts as error:
        site.kept.pop(place)  # it takes part in this sum no more
        log.error("%s", error)
        raise


def _places(site: Site) -> list[str]:
    """Return the keys of the places that a hospital has in sums, the oldest first."""
    return [place for place, kept in site.kept.items() if isinstance(kept, Member)]
