"""The shares of which a refined model is made, in words."""

import math
from collections.abc import Mapping

from polyclinic.reporting.formats import join_words, plural

NAMED_SHARES = 4
SMALLEST_SHARE = 0.005  # smaller ones are not named


def tell_shares(shares: Mapping[str, float]) -> str:
    """Tell whose vectors a model is made of, the largest share first."""
    positive = [(site, share) for site, share in shares.items() if share > 0]
    ordered = sorted(positive, key=lambda pair: (-pair[1], pair[0]))
    if not ordered:
        return "nothing"
    if len(ordered) > 1 and math.isclose(ordered[0][1], ordered[-1][1], rel_tol=1e-6):
        names = join_words([site for site, _ in ordered])
        few = len(ordered) <= NAMED_SHARES
        return f"equal shares of {names if few else plural(len(ordered), 'hospital')}"
    shown = [(site, share) for site, share in ordered if share >= SMALLEST_SHARE]
    named = shown if len(shown) <= NAMED_SHARES else shown[: NAMED_SHARES - 1]
    words = [f"{round(100 * share)} % {site}" for site, share in named]
    others = shown[len(named) :]
    if others:
        rest = math.fsum(share for _, share in others)
        words.append(f"{round(100 * rest)} % of {len(others)} others")
    return ", ".join(words)
