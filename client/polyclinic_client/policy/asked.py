"""What a run asks a hospital for, in plain values: with a digest to name it, and in words.

It is read from the scalars of any question, by the client's processes with and without torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.release import MinSubjects, NoiseMultiplier
from polyclinic.config.schemas import SECURE_SUMS, STRICT, Count
from polyclinic.config.validation import (
    NAME,
    PLUGIN,
    SETTING,
    JobNames,
    JobSettings,
    validate,
)
from polyclinic.fleet.wire.fleet_pb2 import Envelope, NamedValue
from polyclinic.system.text import json_digest

Word = Annotated[str, Field(strict=True, max_length=200)]
Named = Annotated[tuple[Word, ...], Field(max_length=64)]
Packages = Annotated[Mapping[Word, Word], Field(max_length=256)]
Truth = Annotated[bool, Field(strict=True)]
Number = Annotated[int, Field(ge=0, le=1_000_000)]
SUMMED = ("train.sum", "query.offer")  # questions for a place in a sum
PLAIN = "unnamed"  # the method of orders that name none, as before 0.2
# part of an order as it travels -> field, see `polyclinic.federation.records`
PREFIXES = {NAME: "names", SETTING: "settings", PLUGIN: "plugins"}
FIELDS = {
    "run": "run",
    "arm": "strategy",
    "method": "method",
    "rounds": "rounds",
    "personal": "personal",
    "statistics": "statistics",
    "min-subjects": "min_subjects",
    "noise-multiplier": "noise_multiplier",
    "protections": "protections",
    "epsilon": "epsilon",
    "sum.masked": "masked",
    "summed": "summed",
}
# not part of what a person decides about: the same work in another round, or for another arm
UNDECIDED = (
    *("strategy", "round", "statistics", "min_subjects", "noise_multiplier"),
    *("masked", "summed"),
)


@dataclass(frozen=True, config=STRICT)
class Asked:
    """What a question of a run asks for.

    Attributes:
        run: Name of the run.
        strategy: Name of the run's strategy.
        method: Name of the federation's method.
        rounds: Number of rounds, or of passes where there are none.
        round: Number of the round; 0 outside rounds.
        personal: What stays at the hospital.
        names: Group of conf/ to name: model, data, training.
        settings: Settings that differ from what those names say.
        plugins: Packages other than polyclinic that the work needs.
        statistics: Names of statistics about images.
        min_subjects: No mean over fewer subjects is asked for; None where none is asked for.
        noise_multiplier: Noise on such means.
        protections: What the run promises for updates, such as `SECURE_SUMS`.
        epsilon: What training for the run may tell about one patient, if it is differentially
            private; None where it is not.
        masked: Whether the vector that is asked for goes into a sum under masks.
        summed: Whether a contribution stays here until it is asked for in this way.
    """

    run: Word = ""
    strategy: Word = ""
    method: Word = PLAIN
    rounds: Count = 1
    round: Number = 0
    personal: Word = "none"
    names: JobNames = field(default_factory=dict)
    settings: JobSettings = field(default_factory=dict)
    plugins: Packages = field(default_factory=dict)
    statistics: Named = ()
    min_subjects: MinSubjects | None = None
    noise_multiplier: NoiseMultiplier = 0.0
    protections: Named = ()
    epsilon: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    masked: Truth = False
    summed: Truth = False

    def shows_update(self, kind: str) -> bool:
        """Tell whether the answer to a question of this type shows this hospital's own update."""
        return (
            kind == "train"
            or (kind in SUMMED and not self.masked)
            or (kind == "query.collect" and not self.summed)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that a person decides about."""
        told = self.values().items()
        return json_digest({name: value for name, value in told if name not in UNDECIDED})

    def values(self) -> dict[str, Any]:
        """Return plain values, for a file."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        mapped = {name: dict(found[name]) for name in ("names", "settings", "plugins")}
        listed = {name: list(found[name]) for name in ("statistics", "protections")}
        return {**found, **mapped, **listed}

    def words(self) -> list[str]:
        """Say in sentences what is asked for."""
        model, data = self.names.get("model", "?"), self.names.get("data", "?")
        said = [
            f"Run '{self.run}' works by the method {self.method}, with the model {model} on "
            f"{data}, for {self.rounds} rounds or passes."
        ]
        if self.settings:
            changed = ", ".join(f"{key}={value}" for key, value in self.settings.items())
            said.append(f"It changes these settings: {changed}.")
        if self.plugins:
            packages = ", ".join(f"{name} {version}" for name, version in self.plugins.items())
            said.append(f"It needs these packages: {packages}.")
        said.append(
            "The coordinator sees this hospital's updates only as parts of a sum."
            if SECURE_SUMS in self.protections
            else "The coordinator sees this hospital's own updates."
        )
        said.append(
            "Training is not differentially private."
            if self.epsilon is None
            else f"Training tells at most epsilon {self.epsilon:g} about one patient."
        )
        return said


def read_asked(flat: Mapping[str, Any]) -> Asked:
    """Read what the scalars of a question ask for.

    Args:
        flat: As `polyclinic.federation.records.order_to_config` and the methods write them.

    Raises:
        ConfigError: One of them is of another kind, or beyond its bounds.
    """
    found: dict[str, Any] = {ours: flat[key] for key, ours in FIELDS.items() if key in flat}
    for prefix, ours in PREFIXES.items():
        found[ours] = {
            key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)
        }
    found["method"] = found.get("method") or PLAIN
    number, offset = flat.get("server-round", 0), flat.get("offset", 0)
    if type(number) is int and type(offset) is int and number > 0 <= offset:
        found["round"] = min(number + offset, 1_000_000)
    return validate(Asked, found, "asked.")


def scalars_of(envelope: Envelope) -> dict[str, Any]:
    """Return the scalars of an envelope's records of settings, as they arrived."""
    return {
        entry.name: value
        for record in envelope.content.records
        for entry in record.config.entries
        for value in _value(entry)
    }


def _value(entry: NamedValue) -> Iterator[Any]:
    kind = entry.WhichOneof("value")
    if kind is not None and kind != "blob":
        value = getattr(entry, kind)
        yield list(value.items) if hasattr(value, "items") else value
