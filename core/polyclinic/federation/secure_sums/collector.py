"""The coordinator's side of one secure sum: it never holds a vector, only their running sum.

>>> collector = Collector(terms, numbers)
>>> offers = collector.take_offers(offers)            # site -> Offer
>>> collector.take_shares(shares)                     # site -> Shares
>>> sealed, signatures = collector.shares_for("north")
>>> collector.add("north", masked)                    # words, for each hospital that answers
>>> collector.take_signatures(signatures)             # over `collector.survivors`
>>> collector.take_revealed(revealed)                 # site -> name -> share
>>> total = collector.total()                         # words
"""

from collections.abc import Collection, Mapping

import numpy as np

from polyclinic.errors import AnswerRefused
from polyclinic.federation.secure_sums import shamir
from polyclinic.federation.secure_sums.errors import TooFewInSum
from polyclinic.federation.secure_sums.masks import Words, add_mask, agree, public_of
from polyclinic.federation.secure_sums.sealing import mask_purpose
from polyclinic.federation.secure_sums.terms import (
    Offer,
    Shares,
    Terms,
    check_room,
    threshold,
)


class Collector:
    """One secure sum, as the coordinator takes it.

    Attributes:
        terms: Agreed on before.
        numbers: Length of a vector.
        offers: Keys of the hospitals that take part.
        shared: Hospitals that shared their secrets, sorted.
        survivors: Hospitals whose vectors are in the sum, sorted.
        signatures: Their signatures over that list.

    Args:
        terms: Agreed on before.
        numbers: Length of a vector.
    """

    def __init__(self, terms: Terms, numbers: int) -> None:
        self.terms, self.numbers = terms, numbers
        self.offers: dict[str, Offer] = {}
        self.shared: list[str] = []
        self.survivors: list[str] = []
        self.signatures: dict[str, bytes] = {}
        self._shares: dict[str, Shares] = {}
        self._revealed: dict[str, dict[str, bytes]] = {}
        self._total: Words = np.zeros(numbers, dtype=np.uint32)

    @property
    def needed(self) -> int:
        """Number of hospitals that must answer each question."""
        return max(self.terms.least, threshold(len(self.offers)))

    def take_offers(self, offers: Mapping[str, Offer]) -> list[Offer]:
        """Take the offers, and return them in the order in which they are shown to everybody.

        Raises:
            TooFewInSum: There are too few.
            TooManyInSum: There are more than a word has room for.
        """
        self.offers = dict(sorted(offers.items()))
        self._check(self.offers)
        check_room(len(self.offers), self.terms)
        return list(self.offers.values())

    def take_shares(self, shares: Mapping[str, Shares]) -> None:
        """Take the encrypted shares.

        Raises:
            TooFewInSum: There are too few.
        """
        self._shares = dict(shares)
        self.shared = sorted(shares)
        self._check(self.shared)

    def shares_for(self, site: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return a hospital's shares by sender, and the senders' signatures."""
        senders = [name for name in self.shared if name != site]
        sealed = {name: self._shares[name].sealed[site] for name in senders}
        return sealed, {name: self._shares[name].signature for name in senders}

    def add(self, site: str, masked: Words) -> None:
        """Add a masked vector to the sum; it is not kept."""
        assert site in self.shared and site not in self.survivors
        np.add(self._total, masked, out=self._total)
        self.survivors = sorted([*self.survivors, site])

    def take_signatures(self, signatures: Mapping[str, bytes]) -> None:
        """Take the signatures over the list of survivors.

        Raises:
            TooFewInSum: There are too few.
        """
        self.signatures = dict(signatures)
        self._check(self.signatures)

    def take_revealed(self, revealed: Mapping[str, dict[str, bytes]]) -> None:
        """Take the shares: of survivors' seeds, and of the others' mask keys.

        Raises:
            TooFewInSum: There are too few.
        """
        self._revealed = dict(revealed)
        self._check(self._revealed)

    def total(self) -> Words:
        """Return the sum of the survivors' vectors, modulo 2^32.

        Raises:
            AnswerRefused: Shares that hospitals revealed give no secret.
        """
        for name in self.shared:
            secret = self._combine(name)
            if name in self.survivors:
                add_mask(self._total, secret, negative=True)
                continue
            if public_of(secret) != self.offers[name].mask:
                raise AnswerRefused(f"the shares of {name}'s key give another key")
            for other in self.survivors:
                seed = agree(secret, self.offers[other].mask, mask_purpose(self.terms, name, other))
                add_mask(self._total, seed, negative=other < name)
        return self._total

    def _combine(self, name: str) -> bytes:
        """Return a hospital's seed, or its mask key if it dropped out."""
        holders = {site: number for number, site in enumerate(self.offers, start=1)}
        shares = {holders[site]: found[name] for site, found in self._revealed.items()}
        try:
            return shamir.combine(shares, threshold(len(self.offers)))
        except ValueError as error:
            raise AnswerRefused(f"the shares of {name}'s secret give none") from error

    def _check(self, present: Collection[str]) -> None:
        if len(present) < self.needed:
            raise TooFewInSum(len(present), self.needed)
