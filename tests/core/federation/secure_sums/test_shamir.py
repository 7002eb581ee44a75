"""Secret sharing: by hand, and the invariants of thresholds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.federation.secure_sums import shamir


def test_a_line_through_two_shares_meets_zero_at_the_secret() -> None:
    secret, slope = 7, 5  # f(x) = 7 + 5 x
    shares = {x: (secret + slope * x).to_bytes(66, "big") for x in (2, 9)}
    assert shamir.combine(shares, 2) == secret.to_bytes(32, "big")


@given(st.binary(min_size=32, max_size=32), st.integers(1, 7))
def test_any_shares_of_the_threshold_give_the_secret(secret: bytes, threshold: int) -> None:
    shares = dict(enumerate(shamir.split(secret, threshold, 7), start=1))
    for holders in itertools.islice(itertools.combinations(shares, threshold), 10):
        assert shamir.combine({x: shares[x] for x in holders}, threshold) == secret


def test_fewer_shares_fit_every_secret() -> None:
    shares = shamir.split(b"\1" * 32, 3, 5)
    for other in (b"\0" * 32, b"\xff" * 32):  # a third share makes any secret of the same two
        wanted = int.from_bytes(other, "big")
        points = {1: shares[0], 2: shares[1]}
        known = [int.from_bytes(share, "big") for share in points.values()]
        # f(3) = 3 f(2) - 3 f(1) + f(0) for a parabola
        third = (3 * known[1] - 3 * known[0] + wanted) % shamir.PRIME
        assert shamir.combine({**points, 3: third.to_bytes(66, "big")}, 3) == other


def test_too_few_shares_and_shares_of_nothing_are_refused() -> None:
    shares = shamir.split(b"\1" * 32, 3, 5)
    with pytest.raises(ValueError, match="2 shares"):
        shamir.combine({1: shares[0], 2: shares[1]}, 3)
    with pytest.raises(ValueError, match="no secret"):
        shamir.combine({1: shares[0], 2: shares[1], 3: shares[3]}, 3)
    with pytest.raises(ValueError, match="31 bytes"):
        shamir.split(b"\1" * 31, 2, 3)
