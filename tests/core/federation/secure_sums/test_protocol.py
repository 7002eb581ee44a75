"""The whole protocol: every drop-out is recovered, and every lie is named."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.errors import (
    CoordinatorContradicts,
    OfferInvalid,
    ShareInvalid,
    SumRefused,
    TooFewInSum,
)
from polyclinic.federation.secure_sums.masks import add_mask, new_seed
from polyclinic.federation.secure_sums.member import Member
from polyclinic.federation.secure_sums.terms import Offer, threshold
from tests.core.federation.secure_sums.hospitals import (
    KEYS,
    STEPS,
    TERMS,
    added,
    members,
    take_sum,
    vectors,
)


@pytest.mark.parametrize("step", STEPS)
def test_two_of_ten_drop_out_in_any_step_and_the_sum_is_exact(step: str) -> None:
    words = vectors(10)
    draw = random.Random(step)
    leave = {step: draw.sample(sorted(words), 2)}
    total, survivors, _ = take_sum(members(words), leave)
    there = step in ("survive", "reveal")  # their vectors had arrived
    assert survivors == sorted(set(words) - (set() if there else set(leave[step])))
    np.testing.assert_array_equal(total, added(words, survivors))


@pytest.mark.parametrize("seed", range(12))
def test_two_of_ten_drop_out_at_random_steps(seed: int) -> None:
    words, draw = vectors(10, seed=seed), random.Random(seed)
    leave: dict[str, list[str]] = {}
    for site in draw.sample(sorted(words), 2):
        leave.setdefault(draw.choice(STEPS), []).append(site)
    total, survivors, _ = take_sum(members(words), leave)
    assert len(survivors) >= 8
    np.testing.assert_array_equal(total, added(words, survivors))


def test_two_drop_out_before_and_two_after_the_list_is_made() -> None:
    words = vectors(10)
    leave = {"offer": ["h0", "h1"], "share": ["h2"], "mask": ["h3"]}
    total, survivors, _ = take_sum(members(words), leave)
    assert survivors == ["h4", "h5", "h6", "h7", "h8", "h9"]
    np.testing.assert_array_equal(total, added(words, survivors))


def test_a_third_cannot_drop_out_after_the_list_is_made() -> None:
    words = vectors(9)
    with pytest.raises(TooFewInSum, match="6 hospitals are left"):
        take_sum(members(words), {"mask": ["h0", "h1", "h2"]})
    with pytest.raises(TooFewInSum):
        take_sum(members(vectors(2)), {})


def test_what_arrives_is_noise() -> None:
    words = {site: np.zeros(100_000, np.uint32) for site in vectors(10)}
    _, _, sent = take_sum(members(words), {}, 100_000)
    for masked in sent:
        counts = np.bincount(masked.view(np.uint8), minlength=256)
        expected = masked.nbytes / 256
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert 150 < chi_squared < 400  # 255 degrees of freedom: mean 255, deviation 22.6
    for one, other in itertools.combinations(sent, 2):
        difference = (one - other).view(np.uint8)
        assert abs(float(difference.mean()) - 127.5) < 1  # no two share their masks


def test_masks_cancel_in_any_length() -> None:
    seed, random_words = new_seed(), np.random.default_rng(0)
    for numbers in (0, 1, 65_535, 65_536, 65_537, 200_001):
        words = random_words.integers(0, 2**32, numbers, dtype=np.uint32)
        masked = words.copy()
        add_mask(masked, seed)
        assert numbers < 2 or not np.array_equal(words, masked)
        add_mask(masked, seed, negative=True)
        np.testing.assert_array_equal(words, masked)


def test_the_threshold_is_more_than_two_thirds() -> None:
    assert [threshold(n) for n in (3, 4, 5, 6, 9, 10, 100)] == [3, 3, 4, 5, 7, 7, 67]


def begin(count: int = 5):  # type: ignore[no-untyped-def]
    """Return hospitals and a coordinator that has all masked vectors."""
    hospitals = members(vectors(count))
    collector = Collector(TERMS, 1000)
    offers = collector.take_offers({site: each.offer() for site, each in hospitals.items()})
    collector.take_shares({site: each.share(offers) for site, each in hospitals.items()})
    for site, each in hospitals.items():
        collector.add(site, each.mask(*collector.shares_for(site)))
    return hospitals, collector


def test_a_lie_about_drop_outs_is_named_and_reveals_nothing() -> None:
    hospitals, collector = begin(10)
    everybody = collector.survivors
    told = {site: everybody if site < "h5" else everybody[1:] for site in everybody}
    signatures = {site: hospitals[site].survive(told[site]) for site in everybody[1:]}
    for site in everybody[1:]:
        with pytest.raises(CoordinatorContradicts, match="other drop-outs"):
            hospitals[site].reveal(signatures)
        alike = {name: each for name, each in signatures.items() if told[name] == told[site]}
        with pytest.raises(TooFewInSum):  # it cannot hide the others' signatures either
            hospitals[site].reveal(alike)


def test_a_second_list_of_drop_outs_is_refused() -> None:
    hospitals, collector = begin(10)
    first = hospitals["h3"].survive(collector.survivors)
    assert hospitals["h3"].survive(collector.survivors) == first  # asked again, after a cut
    with pytest.raises(CoordinatorContradicts, match="twice"):
        hospitals["h3"].survive(collector.survivors[1:])
    with pytest.raises(CoordinatorContradicts, match="leaves out"):
        hospitals["h4"].survive([name for name in collector.survivors if name != "h4"])


def test_other_lists_of_keys_are_named_before_a_vector_is_sent() -> None:
    hospitals = members(vectors(10))
    collector = Collector(TERMS, 1000)
    offers = collector.take_offers({site: each.offer() for site, each in hospitals.items()})
    shown = {site: offers if site < "h5" else offers[1:] for site in hospitals if site != "h0"}
    shares = {site: hospitals[site].share(shown[site]) for site in shown}
    for site in shown:
        sealed = {name: each.sealed[site] for name, each in shares.items() if site in each.sealed}
        with pytest.raises(CoordinatorContradicts, match="another list of keys"):
            hospitals[site].mask(sealed, {name: shares[name].signature for name in sealed})


def test_keys_that_the_coordinator_made_up_are_refused() -> None:
    hospitals = members(vectors(5))
    offers = {site: each.offer() for site, each in hospitals.items()}
    theirs, own = offers["h1"], members(vectors(5))["h1"].offer()
    swapped = Offer("h1", theirs.identity, own.cipher, own.mask, theirs.signature)
    with pytest.raises(OfferInvalid, match="h1: they are not signed"):
        hospitals["h0"].share([*({**offers, "h1": swapped}).values()])
    again = Member("h9", KEYS[1], b"", TERMS, vectors(1)["h0"]).offer()  # with the key of h1
    with pytest.raises(CoordinatorContradicts, match="same identity"):
        hospitals["h0"].share([*offers.values(), again])
    text = KEYS[1].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    with pytest.raises(CoordinatorContradicts, match="same identity"):  # written otherwise
        hospitals["h0"].share([*offers.values(), replace(again, identity=text)])
    with pytest.raises(CoordinatorContradicts, match="lacks this hospital"):
        hospitals["h0"].share([offer for offer in offers.values() if offer.site != "h0"])
    with pytest.raises(TooFewInSum):
        hospitals["h0"].share([offers["h0"], offers["h1"]])


def test_a_changed_share_is_refused_before_a_vector_is_sent() -> None:
    hospitals = members(vectors(5))
    collector = Collector(TERMS, 1000)
    offers = collector.take_offers({site: each.offer() for site, each in hospitals.items()})
    collector.take_shares({site: each.share(offers) for site, each in hospitals.items()})
    sealed, signatures = collector.shares_for("h0")
    with pytest.raises(ShareInvalid, match="h2"):
        hospitals["h0"].mask({**sealed, "h2": sealed["h2"][:-1] + b"\0"}, signatures)
    with pytest.raises(ShareInvalid, match="h2"):  # a share of another hospital's
        hospitals["h0"].mask({**sealed, "h2": sealed["h3"]}, signatures)


def test_a_question_out_of_turn_is_refused() -> None:
    hospital = members(vectors(3))["h0"]
    for ask in (lambda: hospital.mask({}, {}), lambda: hospital.reveal({})):
        with pytest.raises(SumRefused, match="comes before"):
            ask()
