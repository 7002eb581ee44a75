"""From a ledger and the descriptions beside it to refined models, without Flower or the network.

    LEDGER/descriptions/SITE.safetensors    description of a hospital without a contribution

Hospitals that contributed describe themselves inside their contribution (`statistics/site/NAME`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import torch
from pydantic import BaseModel, Field

from polyclinic.describing.statistics import DESCRIPTION
from polyclinic.describing.uncertainty import VARIANCE
from polyclinic.errors import ModelInvalid, UnknownName
from polyclinic.learning.state_dict import StateDict, load_state, save_state
from polyclinic.security.kit import SITE_NAME
from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Entry
from polyclinic.system.durable import replacing
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.refinement.distribution import Neighbourhood
from polyclinic_strategies.refinement.refine import Recipe, Refinement, choose_coefficients, combine

LONGEST_MEAN = 1e4  # with noise; without, a mean is at most 1 long
NOBODY: Mapping[str, Recipe] = MappingProxyType({})
NOTICED = 0.001  # a larger change of a coefficient is a new model


@dataclass(frozen=True)
class Description:
    """A hospital's description of its images."""

    base: str  # digest of the model that features were taken from
    subjects: int
    means: StateDict  # statistic -> mean over the subjects


class Refiner:
    """Makes refined models from what a ledger holds.

    Args:
        publisher: Knows which contributions count.
        normalization: Names of the tensors of normalization layers, for recipes that treat them
            differently.
    """

    def __init__(self, publisher: Publisher, normalization: Collection[str] = ()) -> None:
        self._publisher = publisher
        self._normalization = frozenset(normalization)
        self._folder = publisher.ledger.folder / "descriptions"
        # digest -> description; contributions never change
        self._of_contribution: dict[str, StateDict] = {}
        # time of the folder's last change, and its content
        self._of_newcomer: tuple[int, dict[str, Description]] = (-1, {})
        self._neighbourhoods: dict[str, Neighbourhood] = {}
        # last line of the journal, and the entries that counted then
        self._read: tuple[str, dict[str, Entry]] | None = None

    def contributors(self) -> list[str]:
        """Return the names of the sites whose vectors count, sorted."""
        return list(self._entries())

    def newcomers(self) -> dict[str, Description]:
        """Return the hospitals that described themselves.

        A description by features of an older base does not count.
        """
        changed = self._folder.stat().st_mtime_ns if self._folder.is_dir() else 0
        if self._of_newcomer[0] != changed:
            self._of_newcomer = (
                changed,
                {path.stem: _read(path) for path in sorted(self._folder.glob("*.safetensors"))},
            )
        base = self._publisher.ledger.bases()[-1]
        return {site: found for site, found in self._of_newcomer[1].items() if found.base == base}

    def describe(self, site: str, description: Description) -> None:
        """Keep a hospital's description; it replaces an earlier one."""
        if not SITE_NAME.fullmatch(site):
            raise ModelInvalid(f"{site[:80]!r} is not a hospital's name.")
        text = json.dumps({"base": description.base, "subjects": description.subjects})
        with replacing(self._folder / f"{site}.safetensors") as unfinished:
            save_state(description.means, unfinished, {"polyclinic": text})

    def forget(self, site: str) -> None:
        """Remove the description of a hospital that leaves."""
        (self._folder / f"{site}.safetensors").unlink(missing_ok=True)

    def statistics(self) -> list[str]:
        """Return the statistics by which every contributor is described."""
        found = [set(description) for description in self._contributed().values()]
        common = set.intersection(*found) if found else set()
        return sorted(name for name in common if not name.endswith(VARIANCE))

    def neighbourhood(self, statistic: str) -> Neighbourhood:
        """Return the present distances by one statistic."""
        if statistic not in self._neighbourhoods:
            self._neighbourhoods[statistic] = Neighbourhood(statistic)
        found = self._neighbourhoods[statistic]
        found.update(
            {**{site: each.means for site, each in self.newcomers().items()}, **self._contributed()}
        )
        return found

    def coefficients(self, site: str, recipe: Recipe, *, leave_out: bool = False) -> Refinement:
        """Choose the coefficients of a hospital's model.

        Args:
            site: Any hospital that is described.
            recipe: How to choose.
            leave_out: Choose as if `site` had not contributed.

        Raises:
            UnknownName: No hospital of that name has contributed or described itself.
            ConfigError: No (other) hospital has contributed.
        """
        contributors = self.contributors()
        if site not in contributors and site not in self.newcomers():
            raise UnknownName("hospital", site, sorted({*contributors, *self.newcomers()}))
        among = [each for each in contributors if not (leave_out and each == site)]
        return choose_coefficients(site, self.neighbourhood(recipe.statistic), among, recipe)

    def all_coefficients(
        self, recipe: Recipe, own_recipe: Recipe, exceptions: Mapping[str, Recipe] = NOBODY
    ) -> list[Refinement]:
        """Choose everybody's coefficients, sorted by name.

        Args:
            recipe: For newcomers.
            own_recipe: For hospitals that contributed.
            exceptions: Contributors with another recipe.
        """
        contributors, newcomers = self.contributors(), self.newcomers()
        own = dict.fromkeys(contributors, own_recipe)
        own |= {site: each for site, each in exceptions.items() if site in own}
        chosen = {site: own.get(site, recipe) for site in sorted({*contributors, *newcomers})}
        near = {each: self.neighbourhood(each) for each in {r.statistic for r in chosen.values()}}
        return [
            choose_coefficients(site, near[each.statistic], contributors, each)
            for site, each in chosen.items()
        ]

    def model(self, refinement: Refinement) -> StateDict:
        """Make a refined model; only the contributions that take part are read."""
        entries = self._entries()
        with ExitStack() as stack:
            files = {
                site: stack.enter_context(self._publisher.open(entries[site]))
                for site in refinement.sources
            }
            return combine(self._publisher.base(), files, refinement, self._normalization)

    def matrix(self, statistic: str) -> tuple[list[str], list[list[float]]]:
        """Return the names of all hospitals, contributors first, and their distances.

        Distances are in medians of those among contributors.
        """
        neighbourhood = self.neighbourhood(statistic)
        among = [site for site in self.contributors() if site in neighbourhood.sites]
        sites = [*among, *(site for site in neighbourhood.sites if site not in among)]
        unit = neighbourhood.unit(among)
        return sites, [
            [neighbourhood.distance(one, other) / unit for other in sites] for one in sites
        ]

    def _entries(self) -> dict[str, Entry]:
        """Return the contributions that count, by site.

        They are read again whenever the ledger has a new line.
        """
        head = self._publisher.ledger.newest()
        if self._read is None or self._read[0] != head:
            self._read = head, {entry.site: entry for entry in self._publisher.entries()}
        return self._read[1]

    def _contributed(self) -> dict[str, StateDict]:
        entries = self._entries()
        known = self._of_contribution
        self._of_contribution = {
            entry.digest: known.get(entry.digest) or _read_contribution(entry)
            for entry in entries.values()
        }
        return {entry.site: self._of_contribution[entry.digest] for entry in entries.values()}


def affected(before: Sequence[Refinement], after: Sequence[Refinement]) -> list[str]:
    """Return the hospitals that are new, or whose coefficients changed by more than `NOTICED`."""
    known = {each.site: each for each in before}
    return [
        each.site
        for each in after
        if each.site not in known or _difference(known[each.site], each) > NOTICED
    ]


def _difference(one: Refinement, other: Refinement) -> float:
    """Return the largest change of a coefficient."""
    pairs = [(one.coefficients, other.coefficients), (one.normalization, other.normalization)]
    changes = (
        abs(first.get(site, 0.0) - second.get(site, 0.0))
        for first, second in pairs
        for site in {*first, *second}
    )
    return max(changes, default=0.0)


def _read_contribution(entry: Entry) -> StateDict:
    with TensorFile(entry.path) as file:
        names = [name for name in file.statistics if name.startswith(DESCRIPTION)]
        return _bounded({name.removeprefix(DESCRIPTION): file.statistic(name) for name in names})


def _bounded(means: StateDict) -> StateDict:
    """Leave out what is no mean, even with noise: a huge one makes all other distances vanish.

    New descriptions are refused when they arrive; these were accepted before there were bounds.
    """
    return {
        name: mean
        for name, mean in means.items()
        if mean.ndim == 1 and float(torch.linalg.vector_norm(mean.double())) <= LONGEST_MEAN
    }


class _About(BaseModel):
    """What the file of a description says of it."""

    base: str
    subjects: Annotated[int, Field(ge=0)]


def _read(path: Path) -> Description:
    means, metadata = load_state(path)
    try:
        about = _About.model_validate_json(metadata["polyclinic"])
        return Description(about.base, about.subjects, _bounded(means))
    except (KeyError, ValueError) as error:
        raise ModelInvalid(
            f"{path}: not a hospital's description. Remove it; the hospital describes itself again."
        ) from error
