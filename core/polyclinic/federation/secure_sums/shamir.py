"""Shamir's secret sharing, over a prime field.

Shamir 1979, "How to share a secret", https://doi.org/10.1145/359168.359176. A secret s is the
constant term of a random polynomial f of degree t - 1 over the integers modulo p; the share of
holder x is f(x), for x = 1 ... n. Any t shares give s = f(0) by Lagrange's interpolation; t - 1
shares fit every secret equally well.

    >>> shares = split(b"\\x07" * 32, threshold=2, holders=3)
    >>> combine({1: shares[0], 3: shares[2]}, threshold=2) == b"\\x07" * 32
    True
"""

import secrets
from collections.abc import Mapping

PRIME = 2**521 - 1  # a Mersenne prime, larger than any secret of 32 bytes
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Split a secret of 32 bytes.

    Args:
        secret: The secret.
        threshold: Number of shares that give the secret.
        holders: Number of shares.

    Returns:
        Shares of 66 bytes, of holders 1 ... n.

    Raises:
        ValueError: The secret has another length, or there would be too few shares.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise ValueError(f"{len(secret)} bytes, {threshold} of {holders} shares")
    constant = int.from_bytes(secret, "big")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    return [
        _evaluate([constant, *coefficients], x).to_bytes(SHARE_BYTES, "big")
        for x in range(1, holders + 1)
    ]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of which these are shares.

    Args:
        shares: Holder, from 1, to share; those beyond the threshold are not used.
        threshold: As the secret was split.

    Raises:
        ValueError: There are too few shares, or they are of no secret of 32 bytes.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    points = [(x, int.from_bytes(share, "big")) for x, share in sorted(shares.items())[:threshold]]
    secret = sum(y * _weight(x, [other for other, _ in points]) for x, y in points) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("shares of no secret of 32 bytes")
    return secret.to_bytes(SECRET_BYTES, "big")


def _evaluate(coefficients: list[int], x: int) -> int:
    """Evaluate a polynomial, from the constant term up, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _weight(x: int, points: list[int]) -> int:
    """Return Lagrange's weight of the share at x for the value at 0."""
    numerator = denominator = 1
    for other in points:
        if other != x:
            numerator = numerator * other % PRIME
            denominator = denominator * (other - x) % PRIME
    return numerator * pow(denominator, -1, PRIME) % PRIME
