"""What run.json says of a refinement run, and which of its figures are results."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyclinic.reporting.measurements import Metric, clean, number

CENTRE, REFINED = (
    "centre",
    "refinement",
)  # the arm of the model that everybody would get, and that of a model for each


@dataclass(frozen=True)
class Trial:
    """A recipe, and its mean score at the hospitals that tried it."""

    recipe: str
    mean: float | None


@dataclass(frozen=True)
class Record:
    """How models were refined, as it was at the end.

    `distances` is a matrix over `sites`, in medians of those among contributors. `coefficients` are each hospital's as if
    it had not contributed itself. `left_out` and `own` are the recipes tried for hospitals that join later and for
    contributors, best first. `later` are the hospitals that joined with a description alone, in the order of joining.
    """

    statistic: str
    recipe: str
    sites: tuple[str, ...]
    contributors: tuple[str, ...]
    distances: tuple[tuple[float | None, ...], ...]
    coefficients: Mapping[str, Mapping[str, float]]
    fallback: Mapping[str, str]
    left_out: tuple[Trial, ...]
    own: tuple[Trial, ...]
    later: tuple[str, ...]

    def distance(self, one: str, other: str) -> float | None:
        """Between two hospitals; None where nobody knows it."""
        if one not in self.sites or other not in self.sites:
            return None
        return self.distances[self.sites.index(one)][self.sites.index(other)]


def read_record(run: Mapping[str, Any]) -> Record | None:
    """The part of run.json about refinement; None if it has none.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is damaged.
    """
    found = run.get("refinement")
    if not found:
        return None
    sites = tuple(map(clean, found["sites"]))
    distances = tuple(tuple(map(number, row)) for row in found["distances"])
    if len(distances) != len(sites) or any(len(row) != len(sites) for row in distances):
        raise ValueError("the distances are not those of the sites")
    described = [
        clean(name)
        for name, hospital in run.get("hospitals", {}).items()
        if hospital.get("describes")
    ]
    choice = found.get("choice") or {}
    return Record(
        statistic=clean(found["statistic"]).replace("_", " "),
        recipe=clean(found["recipe"]),
        sites=sites,
        contributors=tuple(map(clean, found["contributors"])),
        distances=distances,
        coefficients={
            clean(site): read_shares(shares) for site, shares in found["coefficients"].items()
        },
        fallback={
            clean(site): clean(reason) for site, reason in (found.get("fallback") or {}).items()
        },
        left_out=_read_trials(choice.get("left_out")),
        own=_read_trials(choice.get("own")),
        later=tuple(dict.fromkeys([*map(clean, found.get("newcomers") or ()), *described])),
    )


def read_shares(shares: object) -> dict[str, float]:
    """Coefficients by hospital; what is no number is left out."""
    found = shares if isinstance(shares, Mapping) else {}
    return {clean(site): share for site, raw in found.items() if (share := number(raw)) is not None}


def pick_results(metrics: Sequence[Metric], arms: Collection[str]) -> tuple[Metric, ...]:
    """Figures of arms, without what was measured on the way to one (its base, a single hospital's vector).

    What hospitals validate while they contribute is the published model, which is the centre's.
    """
    kept = [m for m in metrics if m.arm in arms or "." not in m.arm]
    return tuple(
        replace(m, arm=CENTRE) if (m.arm, m.phase) == (REFINED, "validate") else m for m in kept
    )


def _read_trials(tried: Sequence[Mapping[str, Any]] | None) -> tuple[Trial, ...]:
    return tuple(Trial(clean(each["recipe"]), number(each.get("mean"))) for each in tried or ())
