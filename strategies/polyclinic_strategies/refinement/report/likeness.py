"""Which hospitals are alike, and what their models are made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.reporting.results import Results
from polyclinic_strategies.refinement.events import Refined, tell_shares
from polyclinic_strategies.refinement.report.narrative import tell_distance
from polyclinic_strategies.refinement.report.state import RefinementState
from polyclinic_strategies.refinement.report.table import JOINED_LATER, TOOK_PART


@dataclass(frozen=True)
class Likeness:
    """What a hospital's model is made of, and how far the most similar hospital is.

    Attributes:
        reason: Why it got the average of all; empty if it did not.
        since: What its model would be made of now, if that is something else.
    """

    site: str
    made: str
    nearest: str
    distance: str
    reason: str
    since: str


def find_likenesses(
    results: Results, state: RefinementState, models: Mapping[str, Refined]
) -> tuple[tuple[str, tuple[Likeness, ...]], ...]:
    """Find which hospitals are alike; those that joined later come first."""
    groups = ((JOINED_LATER, results.later), (TOOK_PART, state.contributors))
    return tuple(
        (
            title,
            tuple(_liken(site, state, models.get(site), title == JOINED_LATER) for site in sites),
        )
        for title, sites in groups
        if sites
    )


def _liken(site: str, state: RefinementState, model: Refined | None, later: bool) -> Likeness:
    """Describe one hospital, by its newest model or else by what run.json says of it at the end."""
    now = state.coefficients.get(site, {}) if later else {}
    near = {
        other: distance
        for other in state.contributors
        if other != site and (distance := state.distance(site, other)) is not None
    }
    nearest = min(near, key=lambda other: near[other], default="")
    distance = near.get(nearest)
    if model is None:
        reason = state.fallback.get(site, "") if later else ""
        made = tell_shares(now) if now else "it has no model yet"
        return Likeness(site, made, nearest, tell_distance(distance, reason), reason, "")
    if later and model.nearest:
        nearest, distance = model.nearest, model.distance
    made = tell_shares(model.coefficients)
    since = tell_shares(now) if now and model.coefficients else made
    return Likeness(
        site,
        made,
        nearest,
        tell_distance(distance, model.fallback),
        model.fallback,
        since if since != made else "",
    )
