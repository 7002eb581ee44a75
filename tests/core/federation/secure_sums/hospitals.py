"""Hospitals and a coordinator that carry out the protocol in memory, and drop out where asked."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.masks import Words
from polyclinic.federation.secure_sums.member import Member
from polyclinic.federation.secure_sums.terms import Terms

TERMS = Terms("5e" * 16, 1.0, 24)
STEPS = ("offer", "share", "mask", "survive", "reveal")
KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(10)]
Rng = np.random.Generator


def vectors(count: int, numbers: int = 1000, seed: int = 0) -> dict[str, Words]:
    """Draw quantized vectors."""
    random = np.random.default_rng(seed)
    levels = TERMS.grid.levels
    return {
        f"h{number}": random.integers(-levels, levels + 1, numbers).astype(np.int32).view(np.uint32)
        for number in range(count)
    }


def added(words: Mapping[str, Words], sites: Collection[str]) -> Words:
    """Add vectors in the clear."""
    total: Words = np.add.reduce([words[site] for site in sites], dtype=np.uint32)
    return total


def members(words: Mapping[str, Words], **more: Any) -> dict[str, Member]:
    """Make the hospitals."""
    keys = dict(zip(words, KEYS, strict=False))
    return {
        site: Member(site, keys[site], b"", TERMS, each, **more) for site, each in words.items()
    }


def take_sum(
    hospitals: Mapping[str, Member], leave: Mapping[str, Collection[str]], numbers: int = 1000
) -> tuple[Words, list[str], list[Words]]:
    """Carry out the protocol.

    Args:
        hospitals: Everybody who begins.
        leave: Step to the hospitals that do not answer it, nor anything after it.
        numbers: Length of the vectors.

    Returns:
        The sum, whose vectors are in it, and all that was sent masked.
    """
    collector, gone, sent = Collector(TERMS, numbers), set[str](), []

    def present(step: str, sites: Collection[str]) -> list[str]:
        gone.update(leave.get(step, ()))
        return [site for site in sites if site not in gone]

    offers = collector.take_offers(
        {site: hospitals[site].offer() for site in present("offer", hospitals)}
    )
    collector.take_shares(
        {site: hospitals[site].share(offers) for site in present("share", collector.offers)}
    )
    for site in present("mask", collector.shared):
        sent.append(hospitals[site].mask(*collector.shares_for(site)))
        collector.add(site, sent[-1])
    collector.take_signatures(
        {
            site: hospitals[site].survive(collector.survivors)
            for site in present("survive", collector.survivors)
        }
    )
    collector.take_revealed(
        {
            site: hospitals[site].reveal(collector.signatures)
            for site in present("reveal", collector.signatures)
        }
    )
    return collector.total(), collector.survivors, sent
