"""A method of federated learning: one object that tells both sides what to do.

A method is one folder and one `Method`. The entry point `polyclinic.methods` offers it, so a method
may live in any installed package. What only one side needs is a lazy reference,
`package.module:name`: a hospital neither imports nor needs what only a coordinator uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from polyclinic.errors import UnknownName
from polyclinic.system.plugins import METHODS, offered, provider, resolve

if TYPE_CHECKING:
    from polyclinic.config.schemas import Config

Pace = Literal["rounds", "arrivals", "stages"]
Reference = str  # "package.module:name", imported when it is needed


@dataclass(frozen=True)
class Method:
    """One method of federated learning.

    Example:
        ```python
        METHOD = Method(
            name="shuffling",
            pace="rounds",
            coordinator="polyclinic_shuffling.coordinator:ShufflingCoordinator",
            hospital="polyclinic.federation.hospital:HOSPITAL",
        )
        ```

    Attributes:
        name: Name of the entry point, and of `conf/strategy/NAME.yaml` or `conf/strategy/NAME/`.
        pace: Whether hospitals work in rounds, hand in whenever they like, or hand in by stages.
        coordinator: Callable that makes a `polyclinic.federation.coordinator.Coordinator` of a
            `Config`.
        hospital: A `polyclinic.federation.hospital.Hospital`.
        events: A tuple of `Event` classes besides those that every run has.
        results: Callable that puts the method's own figures into a run's `Results` where reports
            expect them, and returns the changed `Results`; None if they are there already.
        section: Callable that makes a `Section` of a run's `Results`; None if there is none.
        distances: Callable that returns the
            `polyclinic.reporting.results.SiteDistances` which a run's `RunState` tells of; None
            where the run measured none.
        commands: A `typer.Typer` whose commands join `polyclinic-server`.
        hospital_commands: The same for `polyclinic-client`.
        settings: A pydantic dataclass for the node `training.NAME` of the configuration.
        exports: Suffix of a file to the callable that writes it, given the model's file, the path
            and the name of the file; it returns lines of Python that load the file.
        site_tasks: Whether every hospital may have a task of its own (`data.task=own`).
        sums: Whether it works with sums of updates alone (`privacy=secure_sum`).
        patients: Whether its training can protect each patient (`privacy=patient_dp`).
        trains: Whether hospitals hand over what training made; False where only figures and
            statistics leave.
    """

    name: str
    pace: Pace
    coordinator: Reference
    hospital: Reference
    events: Reference | None = None
    results: Reference | None = None
    section: Reference | None = None
    distances: Reference | None = None
    commands: Reference | None = None
    hospital_commands: Reference | None = None
    settings: Reference | None = None
    exports: Mapping[str, Reference] = field(default_factory=dict)
    site_tasks: bool = False
    sums: bool = False
    patients: bool = False
    trains: bool = True

    def load(self, part: str) -> Any:
        """Import one of the parts; None where the method has none."""
        reference = getattr(self, part)
        return None if reference is None else resolve(reference)


@cache
def methods() -> Mapping[str, Method]:
    """All installed methods by name."""
    return {name: entry.load() for name, entry in offered(METHODS).items()}


def method_named(name: str) -> Method:
    """Find a method that is installed here.

    Raises:
        UnknownName: There is none of that name.
    """
    try:
        return methods()[name]
    except KeyError:
        raise UnknownName("method", name, sorted(methods())) from None


def method_of(config: Config) -> Method:
    """Find the method that a configuration's strategy belongs to."""
    return method_named(config.choices["strategy"].partition("/")[0])


def provider_of(method: Method) -> str:
    """Name the installed package that brings a method."""
    return provider(offered(METHODS)[method.name])
