"""What is agreed on before a sum begins, what is said in it, and what is signed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from polyclinic.config.schemas import STRICT
from polyclinic.federation.secure_sums.errors import TooManyInSum
from polyclinic.federation.secure_sums.masks import KEY_BYTES
from polyclinic.federation.secure_sums.quantization import Grid
from polyclinic.fleet.signatures import framed

DOMAIN = b"polyclinic.sums.v1"  # no signature for another purpose starts so
TAIL = 12.0  # deviations of noise for which there is room
FEWEST = 3  # hospitals in a sum: of two, each knows the other's vector

Site = Annotated[str, Field(strict=True, min_length=1, max_length=100)]
Session = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{32}$")]
Key = Annotated[bytes, Field(strict=True, min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature = Annotated[bytes, Field(strict=True, max_length=200)]


def threshold(holders: int) -> int:
    """Return how many of so many hospitals must be there to the end.

    More than two thirds: two groups of that size have an honest hospital in common, if fewer than
    a third work with the coordinator. So it cannot tell the two groups different things.
    """
    return 2 * holders // 3 + 1


@validated(frozen=True, config=STRICT)
class Terms:
    """What is agreed on before anybody trains.

    Attributes:
        session: Name of the sum, drawn by the coordinator.
        clip: Largest size of a number.
        bits: Number of bits of a number, with its sign.
        least: Least number of hospitals in the sum.
        masked: Whether vectors are masked; else they travel quantized, in the clear.
        norm: Euclidean length to which longer vectors are shortened; 0: none is.
        sigma: Deviation of the noise that each hospital adds to each number; 0: none.
    """

    session: Session
    clip: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    bits: Annotated[int, Field(ge=2, le=31)]
    least: Annotated[int, Field(ge=FEWEST, le=10_000)] = FEWEST
    masked: Annotated[bool, Field(strict=True)] = True
    norm: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0

    def __post_init__(self) -> None:
        if self.sigma > 0 and not (self.norm > 0 and self.masked):
            raise ValueError("noise needs a length to which vectors are shortened, and masks")

    @property
    def most(self) -> int:
        """Largest number of hospitals whose sum fits into a word, with its noise."""
        noise = TAIL * self.sigma / self.grid.step  # of one hospital; of n, sqrt(n) times that
        room = float(2**31 - 1)
        count = (-noise + math.sqrt(noise**2 + 4 * self.grid.levels * room)) / 2
        return min(self.grid.most, int((count / self.grid.levels) ** 2))

    @property
    def grid(self) -> Grid:
        """The grid on which numbers travel."""
        return Grid(self.clip, self.bits)

    def to_bytes(self) -> bytes:
        """Return the terms as they are signed."""
        values = (self.session, self.clip, self.bits, self.least, self.masked)
        return repr((*values, self.norm, self.sigma)).encode()


def check_room(hospitals: int, terms: Terms) -> None:
    """Refuse so many hospitals that their sum may not fit into a word.

    Raises:
        TooManyInSum: There are too many.
    """
    if hospitals > terms.most:
        raise TooManyInSum(hospitals, terms.most)


@validated(frozen=True, config=STRICT)
class Offer:
    """A hospital's keys for one sum.

    Attributes:
        site: The hospital.
        identity: Its enrolled public key, in PEM.
        cipher: Public key by which others encrypt shares for it.
        mask: Public key by which pairs agree on masks.
        signature: Of the enrolled key, over `offer_statement`.
    """

    site: Site
    identity: Annotated[bytes, Field(strict=True, max_length=1000)]
    cipher: Key
    mask: Key
    signature: Signature


@dataclass(frozen=True)
class Shares:
    """A hospital's encrypted shares for the others.

    Attributes:
        sealed: One for each other hospital, by name.
        signature: Over `list_statement`: which offers the hospital was shown.
    """

    sealed: Mapping[str, bytes]
    signature: bytes


def offer_statement(
    terms: Terms, authority: bytes, site: str, cipher: bytes, mask: bytes, words: int
) -> bytes:
    """Return what a hospital signs about its keys; `words` is the length of its vector."""
    return framed(
        DOMAIN, b"offer", authority, terms.to_bytes(), site.encode(), cipher, mask, b"%d" % words
    )


def offers_digest(terms: Terms, offers: Iterable[Offer]) -> bytes:
    """Return the SHA-256 of a list of offers, in the order of the hospitals' names."""
    parts = [
        part
        for offer in sorted(offers, key=lambda each: each.site)
        for part in (offer.site.encode(), offer.identity, offer.cipher, offer.mask)
    ]
    return sha256(framed(terms.to_bytes(), *parts)).digest()


def list_statement(authority: bytes, digest: bytes) -> bytes:
    """Return what a hospital signs about the offers that it was shown."""
    return framed(DOMAIN, b"list", authority, digest)


def survivors_statement(
    authority: bytes, digest: bytes, shared: Sequence[str], survivors: Sequence[str]
) -> bytes:
    """Return what a hospital signs about those whose vectors arrived.

    Args:
        authority: `authority_digest` of the coordinator's.
        digest: `offers_digest` of the offers.
        shared: Hospitals whose shares were handed on, sorted.
        survivors: Those of them whose masked vectors are in the sum, sorted.
    """
    names = [framed(*(name.encode() for name in each)) for each in (shared, survivors)]
    return framed(DOMAIN, b"survivors", authority, digest, *names)
