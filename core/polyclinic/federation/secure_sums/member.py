"""A hospital's side of one secure sum: what it sends, and what it insists on.

    >>> member = Member("north", key, b"", terms, words)
    >>> offer = member.offer()
    >>> shares = member.share(offers)                 # all hospitals' offers
    >>> masked = member.mask(received, signatures)    # shares for this hospital, by sender
    >>> signature = member.survive(survivors)         # names
    >>> revealed = member.reveal(signatures)          # of the others, over the same names

A question may come again, after the line was cut; the answer is the same then. Another question of
the same kind is refused: that is how a coordinator would take the sum apart.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from polyclinic.federation.secure_sums import shamir
from polyclinic.federation.secure_sums.errors import (
    CoordinatorContradicts,
    OfferInvalid,
    SumRefused,
    TooFewInSum,
)
from polyclinic.federation.secure_sums.masks import (
    Words,
    add_mask,
    agree,
    new_secret,
    new_seed,
    public_of,
)
from polyclinic.federation.secure_sums.sealing import mask_purpose, seal, share_purpose, unseal
from polyclinic.federation.secure_sums.terms import (
    Offer,
    Shares,
    Terms,
    check_room,
    list_statement,
    offer_statement,
    offers_digest,
    survivors_statement,
    threshold,
)
from polyclinic.fleet.signatures import framed, sign_statement, signer
from polyclinic.security.admission_errors import SignatureInvalid
from polyclinic.security.keys import PrivateKey, PublicKey, fingerprint, public_pem

Answer = TypeVar("Answer")
Recognize = Callable[[str, PublicKey], None]  # raises OfferInvalid for a key that is not the site's


def recognize_all(site: str, key: PublicKey) -> None:
    """Take every key for the site's own; for tests."""


class Member:
    """One hospital in one sum.

    Args:
        site: Name of the hospital.
        key: Its enrolled key.
        authority: `authority_digest` of the coordinator's authority; empty without keys.
        terms: Agreed on before.
        words: The quantized vector, (numbers,); it is not changed.
        recognize: Checks that a key is the one that a hospital's people expect.
        least: Number of hospitals that this one demands in a sum.
        before_reveal: Called with the sum's hospitals before anything is revealed; may refuse.
    """

    def __init__(
        self,
        site: str,
        key: PrivateKey,
        authority: bytes,
        terms: Terms,
        words: Words,
        recognize: Recognize = recognize_all,
        least: int = 0,
        before_reveal: Callable[[Sequence[str]], None] = lambda _names: None,
    ) -> None:
        self._site, self._key, self._authority, self.terms = site, key, authority, terms
        self._words, self._recognize, self._before_reveal = words, recognize, before_reveal
        self._least = max(least, terms.least)
        self._cipher, self._mask, self._seed = new_secret(), new_secret(), new_seed()
        self._offers: dict[str, Offer] = {}
        self._digest = b""
        self._shared: list[str] = []
        self._survivors: list[str] = []
        self._held: dict[str, tuple[bytes, bytes]] = {}  # sender -> shares of mask key and seed
        self._said: dict[str, tuple[bytes, Any]] = {}  # step -> digest of its question, answer

    def offer(self) -> Offer:
        """Return the keys for this sum."""
        cipher, mask = public_of(self._cipher), public_of(self._mask)
        statement = offer_statement(
            self.terms, self._authority, self._site, cipher, mask, self._words.size
        )
        identity = public_pem(self._key.public_key())
        return Offer(self._site, identity, cipher, mask, sign_statement(self._key, statement))

    def share(self, offers: Sequence[Offer]) -> Shares:
        """Share this hospital's two secrets among those who made offers.

        Raises:
            OfferInvalid: An offer is not signed by its hospital.
            TooFewInSum: There are too few.
            CoordinatorContradicts: Another list came before, or this hospital's offer is missing.
        """
        digest = offers_digest(self.terms, offers)
        return self._once("share", digest, lambda: self._share(offers, digest))

    def _share(self, offers: Sequence[Offer], digest: bytes) -> Shares:
        self._check_offers(offers)
        self._offers = {offer.site: offer for offer in offers}
        self._digest = digest
        names = sorted(self._offers)
        needed = threshold(len(names))
        secrets = [shamir.split(each, needed, len(names)) for each in (self._mask, self._seed)]
        sealed = {}
        for name, mask_share, seed_share in zip(names, *secrets, strict=True):
            if name == self._site:
                self._held[name] = mask_share, seed_share
            else:
                channel = self._channel(name, self._site, name)
                sealed[name] = seal(channel, mask_share + seed_share, digest)
        signature = sign_statement(self._key, list_statement(self._authority, digest))
        return Shares(sealed, signature)

    def mask(self, sealed: Mapping[str, bytes], signatures: Mapping[str, bytes]) -> Words:
        """Return the masked vector.

        Args:
            sealed: Shares for this hospital, by sender.
            signatures: Each sender's, over the list of offers that it was shown.

        Raises:
            CoordinatorContradicts: Somebody was shown another list of offers.
            ShareInvalid: A share cannot be read.
            TooFewInSum: There are too few.
        """
        parts = [part for name in sorted(sealed) for part in (name.encode(), sealed[name])]
        question = sha256(framed(*parts)).digest()
        self._after("share", "mask")
        self._once("mask", question, lambda: self._receive(sealed, signatures))
        masked = self._words.copy()
        add_mask(masked, self._seed)
        for name in self._shared:
            if name != self._site:
                seed = agree(
                    self._mask, self._offers[name].mask, mask_purpose(self.terms, self._site, name)
                )
                add_mask(masked, seed, negative=self._site > name)
        return masked

    def survive(self, survivors: Sequence[str]) -> bytes:
        """Sign the list of those whose masked vectors are in the sum.

        Raises:
            CoordinatorContradicts: The list cannot be true, or another one came before.
            TooFewInSum: There are too few.
        """
        names = sorted(set(survivors))
        self._after("mask", "survive")
        return self._once("survive", framed(*map(str.encode, names)), lambda: self._survive(names))

    def _survive(self, names: list[str]) -> bytes:
        if not set(names) <= set(self._shared) or self._site not in names:
            raise CoordinatorContradicts(
                "it names hospitals in the sum that never shared their secrets, or leaves out this "
                "one, whose vector it has"
            )
        self._check_number(len(names))
        self._survivors = names
        return sign_statement(self._key, self._statement())

    def reveal(self, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return one share of each hospital: of its seed, or of its mask key if it dropped out.

        Args:
            signatures: The hospitals', over the list of survivors.

        Raises:
            CoordinatorContradicts: A hospital signed another list.
            TooFewInSum: Too few signed.
        """
        self._after("survive", "reveal")
        return self._once("reveal", b"", lambda: self._reveal(signatures))

    def _reveal(self, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
        self._check_survivors(signatures)
        self._before_reveal(self._survivors)
        return {name: self._held[name][name in self._survivors] for name in self._shared}

    def _check_offers(self, offers: Sequence[Offer]) -> None:
        names = [offer.site for offer in offers]
        mine = next((offer for offer in offers if offer.site == self._site), None)
        if mine is None or (mine.cipher, mine.mask) != (
            public_of(self._cipher),
            public_of(self._mask),
        ):
            raise CoordinatorContradicts("its list of keys lacks this hospital's own keys")
        for kind in ("site", "cipher", "mask"):
            if len({getattr(offer, kind) for offer in offers}) < len(offers):
                raise CoordinatorContradicts(f"two hospitals in its list have the same {kind}")
        self._check_number(len(names), len(names))
        check_room(len(names), self.terms)
        keys = {offer.site: self._signer_of(offer) for offer in offers}
        if len(set(map(fingerprint, keys.values()))) < len(keys):
            raise CoordinatorContradicts("two hospitals in its list have the same identity")
        for site, key in keys.items():
            if site != self._site:
                self._recognize(site, key)

    def _signer_of(self, offer: Offer) -> PublicKey:
        """Return the key that signed an offer."""
        size = self._words.size
        statement = offer_statement(
            self.terms, self._authority, offer.site, offer.cipher, offer.mask, size
        )
        try:
            return signer(offer.identity, offer.signature, statement)
        except SignatureInvalid as error:
            raise OfferInvalid(
                offer.site, "they are not signed by the key that is named with them"
            ) from error

    def _receive(self, sealed: Mapping[str, bytes], signatures: Mapping[str, bytes]) -> None:
        """Check and open the shares that the others sent."""
        if not set(sealed) <= set(self._offers) - {self._site}:
            raise CoordinatorContradicts("it hands on shares of hospitals that made no offer")
        for name in sorted(sealed):
            statement = list_statement(self._authority, self._digest)
            if not self._signed(name, signatures.get(name, b""), statement):
                raise CoordinatorContradicts(
                    f"it showed {name} another list of keys than this hospital"
                )
        shared = sorted([*sealed, self._site])
        self._check_number(len(shared))
        opened = {}
        for name, text in sorted(sealed.items()):
            channel = self._channel(name, name, self._site)
            opened[name] = unseal(channel, text, self._digest, name)
        self._held |= opened
        self._shared = shared

    def _check_survivors(self, signatures: Mapping[str, bytes]) -> None:
        statement = self._statement()
        for name in sorted(signatures):
            if name not in self._survivors or not self._signed(name, signatures[name], statement):
                raise CoordinatorContradicts(
                    f"it told {name} of other drop-outs than it told this hospital"
                )
        self._check_number(len(signatures))

    def _statement(self) -> bytes:
        return survivors_statement(self._authority, self._digest, self._shared, self._survivors)

    def _check_number(self, present: int, holders: int | None = None) -> None:
        least = max(self._least, threshold(holders or len(self._offers)))
        if present < least:
            raise TooFewInSum(present, least)

    def _signed(self, site: str, signature: bytes, statement: bytes) -> bool:
        try:
            signer(self._offers[site].identity, signature, statement)
        except SignatureInvalid:
            return False
        return True

    def _channel(self, other: str, sender: str, receiver: str) -> bytes:
        """Return the key of what one hospital sends to another, used once."""
        purpose = share_purpose(self.terms, sender, receiver)
        return agree(self._cipher, self._offers[other].cipher, purpose)

    def _after(self, step: str, wanted: str) -> None:
        if step not in self._said:
            raise SumRefused(f"The question to {wanted} comes before the one to {step}.")

    def _once(self, step: str, question: bytes, make: Callable[[], Answer]) -> Answer:
        """Answer a step's question; the same question again gets the same answer."""
        if step not in self._said:
            self._said[step] = question, make()
        asked, answer = self._said[step]
        if asked != question:
            raise CoordinatorContradicts(f"it asked this hospital twice to {step}, differently")
        return answer  # type: ignore[no-any-return]
