"""Checked dataclasses of plain values, and the checks that need more than one value."""

import math
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from polyclinic.config.schemas import DataConfig, Part, Scalar, Setting, TrainingConfig
from polyclinic.config.tasks import kinds_of_loss
from polyclinic.errors import ConfigError

JOB_GROUPS = ("model", "data", "training")  # what a hospital needs to know
_PIECE = "[A-Za-z][A-Za-z0-9_]{0,63}"  # Hydra's own keys, such as _target_, begin otherwise
_KEY = re.compile(rf"({'|'.join(JOB_GROUPS)})(\.{_PIECE}){{1,8}}")
_SHOWN = 100  # characters of what somebody else wrote
MOST_ENTRIES = 256  # settings of a job, or packages
NAME, SETTING, PLUGIN = "name.", "set.", "plugin."  # what they begin with in an order's scalars
LONGEST = 256  # values in a list that travels
FIGURES = 4  # of a channel in data.foreground
Schema = TypeVar("Schema")


def validate(schema: type[Schema], values: Mapping[str, Any], prefix: str = "") -> Schema:
    """Make a dataclass of plain values.

    Args:
        schema: A pydantic dataclass.
        values: Its fields.
        prefix: Before the names of settings in an error's text.

    Raises:
        ConfigError: The first value that is wrong.
    """
    try:
        return TypeAdapter(schema).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = (prefix + ".".join(str(piece) for piece in first["loc"]))[:_SHOWN]
        if first["type"] == "missing":
            raise ConfigError(f"{key} is missing.") from error
        given = reprlib.repr(first.get("input"))
        raise ConfigError(
            f"{key}={given}: {first['msg'][0].lower() + first['msg'][1:]}."
        ) from error


def check_fit(model: Part, data: DataConfig, training: TrainingConfig) -> None:
    """Refuse parts that are right by themselves and do not fit together.

    Raises:
        ConfigError: What does not fit.
    """
    check_grid(data)
    _check_labels(data, training)
    dims = model.get("spatial_dims")
    if data.task != "own" and dims is not None and dims != data.spatial_dims:
        raise ConfigError(
            f"The model is {dims}-D but data.patch={list(data.patch)} is {data.spatial_dims}-D: "
            "choose a model and data of the same dimension (for example model=unet_2d "
            "data=brain_tissue_slices)."
        )


def check_grid(data: DataConfig) -> None:
    """Refuse a grid of images that cannot be.

    Raises:
        ConfigError: A patch or a spacing has the wrong number of axes.
    """
    if data.spatial_dims not in (2, 3):
        raise ConfigError(
            f"data.patch={list(data.patch)}: two numbers for a 2-D task, three for a 3-D one."
        )
    if data.spacing_mm is not None and len(data.spacing_mm) != 3:
        raise ConfigError(
            f"data.spacing_mm={list(data.spacing_mm)}: three numbers in mm, or null to resize "
            "images to the patch."
        )
    _check_normalization(data)


def _check_normalization(data: DataConfig) -> None:
    """See that every channel has its normalization, and the figures that it needs."""
    kinds, figures = data.normalization, data.foreground
    if len(kinds) not in (0, 1, data.channels):
        raise ConfigError(
            f"data.normalization={list(kinds)}: one entry for all channels, or one for each of "
            f"data.channels={data.channels}."
        )
    if "ct" not in kinds and not figures:
        return
    if len(figures) != FIGURES * data.channels:
        raise ConfigError(
            f"data.foreground has {len(figures)} numbers: normalization by ct needs four for each "
            f"of data.channels={data.channels}, low, high, mean and deviation. "
            "`polyclinic-server plan` finds them."
        )
    for place, kind in enumerate(kinds * (data.channels if len(kinds) == 1 else 1)):
        low, high, _, deviation = figures[FIGURES * place : FIGURES * (place + 1)]
        if kind == "ct" and not (low < high and deviation > 0):
            raise ConfigError(
                f"data.foreground of channel {place}: low {low:g} must be below high {high:g}, and "
                f"the deviation {deviation:g} above 0."
            )


def check_channels(data: DataConfig) -> None:
    """Refuse a new run whose hospitals may give channels in another order each.

    Raises:
        ConfigError: There are several channels without names, or more names than channels.
    """
    if data.task == "own" or (data.channels == 1 and not data.modality):
        return
    if len(data.modality) != data.channels:
        raise ConfigError(
            f"data.channels={data.channels} and data.modality={list(data.modality)}: name each "
            "channel, as 'modality' of the hospitals' dataset.json does, for example "
            "'data.modality=[T1,FLAIR]'."
        )


def check_setting(key: object, value: object) -> Setting:
    """Return a value that may cross the network: a bounded scalar, or a flat list of them.

    Raises:
        ConfigError: Another value, or a key that names code or lies outside a job.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ConfigError(
            f"{str(key)[:_SHOWN]} cannot be set from afar: write a file in conf/ on both sides "
            "instead."
        )
    if isinstance(value, list | tuple):
        if len(value) > LONGEST:
            raise ConfigError(f"{key}: a list of {len(value)} values, at most {LONGEST} travel.")
        return [_check_scalar(key, item) for item in value]
    return _check_scalar(key, value)


def check_name(name: object) -> str:
    """Return a name of a file in `conf/`.

    Raises:
        ConfigError: It is anything else, such as a path.
    """
    if not isinstance(name, str) or not re.fullmatch(
        r"[a-z0-9][a-z0-9_]{0,63}(/[a-z0-9][a-z0-9_]{0,63})?", name
    ):
        raise ConfigError(f"'{str(name)[:_SHOWN]}' is not a name of conf/.")
    return name


def _check_names(values: object) -> dict[str, str]:
    return {str(group)[:_SHOWN]: check_name(name) for group, name in _bounded(values).items()}


def _check_settings(values: object) -> dict[str, Setting]:
    return {key: check_setting(key, value) for key, value in _bounded(values).items()}


def _bounded(values: object) -> Mapping[str, object]:
    if not isinstance(values, Mapping) or len(values) > MOST_ENTRIES:
        raise ValueError(f"at most {MOST_ENTRIES} names with values are taken")
    return values


# what describes a job from afar, or in a model's file: fields of pydantic dataclasses
JobNames = Annotated[Mapping[str, str], BeforeValidator(_check_names)]
JobSettings = Annotated[Mapping[str, Setting], BeforeValidator(_check_settings)]


def _check_labels(data: DataConfig, training: TrainingConfig) -> None:
    """See that the classes, and the loss, are those of the kind of task."""
    if data.task == "own":
        if data.labels:
            raise ConfigError(
                f"data.labels={list(data.labels)}: with data.task=own every hospital names its "
                "classes in its dataset.json."
            )
        return
    kind = data.kind
    if len(data.labels) < kind.least_labels or len(set(data.labels)) != len(data.labels):
        least = "two classes" if kind.least_labels == 2 else "one name"
        raise ConfigError(f"data.labels={list(data.labels)}: at least {least}, each named once.")
    _check_outputs(data)
    fitting = kinds_of_loss(str(training.loss.get("_target_")))
    if fitting and data.task not in fitting:
        choices = " or ".join(f"training={name}" for name in kind.trainings)
        raise ConfigError(
            f"The loss of this training is not one for {kind.title}: choose {choices}."
        )


def _check_outputs(data: DataConfig) -> None:
    """See that settings of a kind of task are there for it, and for no other."""
    values, ranges, count = data.region_values, data.ranges, len(data.labels)
    if values and (data.task != "regions" or len(values) != count or len(set(values)) != count):
        raise ConfigError(
            f"data.region_values={list(values)}: of data.task=regions, one number for each of "
            f"{count} regions, all different; or [] for 1, 2, ..."
        )
    if data.task != "regression":
        if ranges:
            raise ConfigError(f"data.ranges={list(ranges)}: only of data.task=regression.")
        return
    if len(ranges) != 2 * count or any(
        low >= high for low, high in zip(ranges[::2], ranges[1::2], strict=True)
    ):
        raise ConfigError(
            f"data.ranges={list(ranges)}: lowest and highest value of each of data.labels="
            f"{list(data.labels)}, for example 'data.ranges=[0,110]' for an age in years."
        )


def _check_scalar(key: str, value: object) -> Scalar:
    if isinstance(value, bool | int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and re.fullmatch(r"[\w .,+()/'*&%-]{0,100}", value):
        return value
    raise ConfigError(
        f"{key}={reprlib.repr(value)} cannot travel: only plain numbers, truth values and short "
        "words do."
    )
