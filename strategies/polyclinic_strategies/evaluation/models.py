"""The models that are evaluated: their files, and what is asked of hospitals for each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor

from polyclinic.config.jobs import job_digests, load_job
from polyclinic.config.overrides import write_override
from polyclinic.config.schemas import JobConfig, Setting
from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.federation.jobs import needed_plugins
from polyclinic.federation.records import Order
from polyclinic.federation.run_folder import versions
from polyclinic.learning.model_file import OPEN, NetworkCard, load_model
from polyclinic.learning.state_dict import (
    layout_digest,
    load_metadata,
    load_state,
    pack,
    packed_digest,
    shared_names,
    state_digest,
)
from polyclinic_strategies.evaluation.exchange import COMPARED, WEIGHTS

METHOD = "evaluation"
TOLERANCE = "data.tolerance_mm"
GENERIC = ("model", "base", "weights")  # names of files that say nothing
Text = Annotated[str, Field(max_length=200)]


@validated(frozen=True, config=OPEN)
class Origin(NetworkCard):
    """What a model's file says of itself.

    Attributes:
        run: Run that made it; empty if unknown.
        arm: Strategy that made it.
        round: Number of its last round, or of the publication; 0 if unknown.
        version: polyclinic's version that wrote it.
        personal: What of the model stays at hospitals.
    """

    run: Text = ""
    arm: Text = ""
    round: int = 0
    version: Text = ""
    personal: Text = "none"


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is evaluated.

    Attributes:
        name: In the run; unique, and a folder's name.
        path: Its file.
        digest: SHA-256 of its tensors.
        origin: What its file says.
        job: What it was trained for.
        settings: Settings of the job that differ from what the names say.
        weights: Its tensors, packed.
        layout: Digest of names and shapes.
    """

    name: str
    path: Path
    digest: str
    origin: Origin
    job: JobConfig
    settings: Mapping[str, Setting]
    weights: Tensor = field(repr=False)
    layout: str

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of what travels."""
        return packed_digest(self.weights)


def read_models(paths: Sequence[str | Path], tolerance_mm: float | None = None) -> list[Model]:
    """Read models of one task.

    Args:
        paths: Their files.
        tolerance_mm: Of surface Dice; None: as each model's settings say.

    Raises:
        ModelInvalid: A file is damaged, not polyclinic's, or does not fit this machine's conf/.
        ConfigError: There is none; one is not a whole model; or they differ in task or labels.
    """
    if not paths:
        raise ConfigError("evaluate: name at least one model's file.")
    models: list[Model] = []
    for path in map(Path, paths):
        model = _read_model(path, tolerance_mm)
        models.append(replace(model, name=_free_name(model, models)))
    first = models[0]
    for each in models[1:]:
        mine, theirs = each.job.data, first.job.data
        if (mine.task, mine.labels) != (theirs.task, theirs.labels):
            raise ConfigError(
                f"{first.path} does {theirs.task} with the labels {', '.join(theirs.labels)}, "
                f"{each.path} does {mine.task} with {', '.join(mine.labels)}: evaluate models of "
                "one task, with labels alike in name and order."
            )
    for place, model in enumerate(models):
        if twin := next((each for each in models[:place] if _same(each, model)), None):
            raise ConfigError(f"{model.path} and {twin.path} are the same model: name it once.")
    return models


def settings_of(models: Sequence[Model], tolerance_mm: float | None = None) -> list[str]:
    """Return the settings of a run that evaluates models.

    Args:
        models: From `read_models`.
        tolerance_mm: As given there.
    """
    first = models[0]
    files = [str(each.path.resolve()) for each in models]
    settings = [f"strategy={METHOD}", write_override("strategy.models", files)]
    if tolerance_mm is not None:
        settings.append(f"strategy.tolerance_mm={tolerance_mm:g}")
    settings += [f"{group}={name}" for group, name in first.origin.names.items()]
    settings += [write_override(key, value) for key, value in first.settings.items()]
    return settings


def make_orders(models: Sequence[Model], run: str, seed: int) -> list[Order]:
    """Make the order for each model; a hospital compares it with those before it.

    Args:
        models: In the order in which hospitals score them.
        run: Name of the run.
        seed: Of the run.
    """
    orders: list[Order] = []
    known: dict[str, str] = {}
    for model in models:
        digests = {
            **job_digests(model.job),
            "layout": model.layout,
            WEIGHTS: model.weights_digest,
            **known,
        }
        known[f"{COMPARED}{model.name}"] = model.weights_digest
        orders.append(
            Order(
                run=run,
                arm=model.name,
                seed=seed,
                rounds=1,
                personal="none",
                version=versions()["polyclinic"],
                names=model.origin.names,
                settings=model.settings,
                digests=digests,
                method=METHOD,
                plugins=needed_plugins(model.job, model.origin.names, METHOD),
            )
        )
    return orders


def _read_model(path: Path, tolerance_mm: float | None) -> Model:
    state, metadata = load_state(path)
    origin = validate_origin(load_metadata(metadata, path), path)
    network, job = load_model(path)
    if origin.personal not in ("", "none"):
        raise ConfigError(
            f"{path} is not a whole model: its {origin.personal} tensors stay at the hospitals. "
            "Evaluate a model of a strategy that shares all."
        )
    if job.data.task == "own" or origin.task is not None:
        raise ConfigError(
            f"{path} is of hospitals with tasks of their own: evaluate a model of one task."
        )
    settings = dict(origin.settings)
    if tolerance_mm is not None and job.data.kind.per_voxel:
        settings[TOLERANCE] = float(tolerance_mm)
    job = load_job(origin.names, settings)
    names = shared_names(network, "none")
    found = network.state_dict()
    return Model(
        name="",
        path=path,
        digest=state_digest(state),
        origin=origin,
        job=job,
        settings=settings,
        weights=pack(found, names),
        layout=layout_digest(found, names),
    )


def _same(one: Model, other: Model) -> bool:
    """Tell whether two files are one model, used alike."""
    return one.digest == other.digest and one.job == other.job


def validate_origin(described: Mapping[str, object], path: Path) -> Origin:
    """Read what a model's file says of itself.

    Raises:
        ModelInvalid: It does not say how its network is built.
    """
    try:
        return validate(Origin, described)
    except ConfigError as error:
        raise ModelInvalid(f"{path}: {error}") from error


def _free_name(model: Model, others: Sequence[Model]) -> str:
    """Choose a name that no other model has: of the file, of the strategy, or with a number."""
    stem, origin = model.path.stem, model.origin
    wishes = [stem] if stem not in GENERIC else [model.path.absolute().parent.name]
    wishes += [f"{wishes[0]}-{origin.run}"] if origin.run else []
    wishes += [f"{wishes[0]}-{number}" for number in range(2, len(others) + 3)]
    taken = {each.name for each in others}
    clean = (re.sub(r"[^\w.-]", "-", wish)[:90] for wish in wishes)
    fitting = (name if re.match(r"\w", name) else f"m{name}" for name in clean)
    return next(name for name in fitting if name not in taken)
