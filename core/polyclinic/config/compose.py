"""Configuration: names in `conf/` and a few settings become frozen dataclasses, checked on both sides.

The only module that meets Hydra. What a coordinator sends to a hospital is a `Job`'s names and scalars, never a path to code:
the hospital looks the names up in its own `conf/`, sets only scalars that exist there, and compares digests.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from polyclinic.config.schemas import (
    Config,
    DataConfig,
    JobConfig,
    Part,
    Scalar,
    Setting,
    TrainingConfig,
)
from polyclinic.errors import ConfigError, UnknownName

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("strategy", "model", "data", "training", "privacy", "deployment", "experiment")
JOB_GROUPS = ("model", "data", "training")  # what a hospital needs to know
MISSING = object()
TARGETS = ("monai.", "torch.", "flwr.serverapp.strategy.", "polyclinic_strategies.", "polyclinic.")

Schema = TypeVar("Schema")
OmegaConf.register_new_resolver("count", len, replace=True)


def load_config(overrides: Sequence[str] = (), conf: Path = CONF) -> Config:
    """Compose `conf/` with Hydra overrides.

    Args:
        overrides: Hydra's `group=name` and `key=value`.
        conf: The folder of configuration groups.

    Raises:
        UnknownName: A group has no such name.
        ConfigError: An unknown key, a value of the wrong kind, or parts that do not fit together.
    """
    node, choices = _compose(overrides, conf)
    config = _validate(Config, {**_resolve(node), "choices": choices})
    _check_fit(config.model, config.data, config.training)
    return config


def expand_strategies(overrides: Sequence[str], conf: Path = CONF) -> list[tuple[str, ...]]:
    """One list of overrides for every strategy of `strategy=a,b,c`, which are then run one after another.

    A setting of strategies, `strategy.scale=1`, goes to those that have it.

    Raises:
        ConfigError: A strategy named twice, or a setting that none of them has.
    """
    fixed = [text for text in overrides if not text.startswith("strategy=")]
    swept = [text.removeprefix("strategy=") for text in overrides if text.startswith("strategy=")]
    if not swept:
        return [tuple(overrides)]
    names = [name.strip() for name in swept[-1].split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"strategy={swept[-1]}: name every strategy once, separated by commas.")
    special = [text for text in fixed if text.startswith("strategy.")]
    if len(names) == 1 or not special:
        return [(f"strategy={name}", *fixed) for name in names]
    nodes = {name: _compose([f"strategy={name}"], conf)[0] for name in names}
    has = {
        name: {
            text
            for text in special
            if OmegaConf.select(node, text.partition("=")[0], default=MISSING) is not MISSING
        }
        for name, node in nodes.items()
    }
    if unknown := [text for text in special if not any(text in known for known in has.values())]:
        raise ConfigError(
            f"There is no setting '{unknown[0].partition('=')[0]}' in any of these strategies."
        )
    return [
        (f"strategy={name}", *(text for text in fixed if text not in special or text in has[name]))
        for name in names
    ]


def list_names(group: str, conf: Path = CONF) -> list[str]:
    """The names that a group of `conf/` has."""
    folder = conf / group
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )


def job_settings(config: Config, conf: Path = CONF) -> tuple[dict[str, str], dict[str, Setting]]:
    """What must travel so that a hospital can build the same job: names, and the scalars that differ from theirs.

    Raises:
        ConfigError: A setting was changed that is not a scalar or a flat list of scalars, or that names code.
    """
    names = {group: config.choices[group] for group in JOB_GROUPS}
    plain = _leaves(_job_tree(load_job(names, {}, conf)))
    wanted = _leaves(_job_tree(JobConfig(config.model, config.data, config.training)))
    changed = {key: value for key, value in wanted.items() if plain.get(key) != value}
    if gone := sorted(set(plain) - set(wanted)):
        raise ConfigError(
            f"{gone[0]} cannot be removed on the command line: write a new file in conf/{gone[0].split('.')[0]}/."
        )
    return names, {key: _check_setting(key, value) for key, value in sorted(changed.items())}


def load_job(
    names: Mapping[str, str], settings: Mapping[str, Setting], conf: Path = CONF
) -> JobConfig:
    """Build a job from names and scalars that arrived over the network, with this machine's own `conf/`.

    Args:
        names: Group to name, for `JOB_GROUPS`.
        settings: Dotted key to value; every key must exist and hold a value of the same kind.

    Raises:
        UnknownName: This machine's `conf/` has no such name.
        ConfigError: A key that does not exist, that names code, or a value of another kind.
    """
    if set(names) != set(JOB_GROUPS):
        raise ConfigError(
            f"A job names {', '.join(JOB_GROUPS)}; this one names {', '.join(sorted(names)) or 'nothing'}."
        )
    node, _ = _compose(
        [f"{group}={_plain_name(name)}" for group, name in sorted(names.items())], conf
    )
    for key, value in settings.items():
        _set_leaf(node, key, _check_setting(key, value))
    tree = _resolve(node)
    job = _validate(JobConfig, {group: tree[group] for group in JOB_GROUPS})
    _check_fit(job.model, job.data, job.training)
    return job


def job_digests(job: JobConfig) -> dict[str, str]:
    """SHA-256 of each resolved group: equal on both sides, or the two would build different things."""
    tree = _job_tree(job)
    return {group: digest(tree[group]) for group in JOB_GROUPS}


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def instantiate(part: Part, **extra: object) -> Any:
    """Make what a node of this machine's own `conf/` names.

    Raises:
        ConfigError: `_target_` lies outside the libraries that `conf/` may name, or cannot be made with these arguments.
    """
    target = str(part.get("_target_"))
    if not target.startswith(TARGETS):
        raise ConfigError(
            f"_target_ {target}: conf/ may name only things from {', '.join(TARGETS)}."
        )
    try:
        return hydra_instantiate(dict(part), _convert_="all", **extra)
    except HydraException as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(f"{target} cannot be made with these settings: {cause}") from error


def as_yaml(config: Config) -> str:
    """The resolved configuration, as it is kept with a run."""
    tree: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    return OmegaConf.to_yaml(OmegaConf.create(tree))


def _compose(overrides: Sequence[str], conf: Path) -> tuple[DictConfig, dict[str, str]]:
    """Hydra's compose, with its errors in plain words."""
    for text in overrides:
        _check_override(text, conf)
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            node = compose("config", overrides=list(overrides), return_hydra_config=True)
            chosen = node.hydra.runtime.choices
            choices = {
                group: str(chosen[group]) for group in GROUPS if chosen.get(group) is not None
            }
            with open_dict(node):
                del node["hydra"]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    return node, choices


def _check_override(text: str, conf: Path) -> None:
    """Meet a wrong name or a forgotten value before Hydra does, to say it better."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"'{text}' is not of the form SETTING=VALUE.") from error
    group, name = override.key_or_group, str(override.value())
    if group in GROUPS and name not in list_names(group, conf):
        raise UnknownName(group, name, list_names(group, conf))


def _explain(error: Exception) -> str:
    """One sentence for what Hydra or OmegaConf has to say."""
    text = str(error.__cause__ or error)
    key = re.search(r"full_key: ([\w.\[\]]+)", text) or re.search(
        r"Key '(\w+)' is not in struct", text
    )
    if "not in struct" in text and key:
        return f"There is no setting '{key.group(1)}'. `polyclinic-server run --help` lists the settings."
    return " ".join(text.splitlines()[0].split())


def _resolve(node: DictConfig) -> dict[str, Any]:
    """Plain dictionaries with every interpolation replaced."""
    try:
        tree = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(tree, dict)
    tree.pop("experiment", None)
    return {str(key): value for key, value in tree.items()}


def _validate(schema: type[Schema], tree: Mapping[str, Any]) -> Schema:
    """A dataclass from plain values; the first thing wrong becomes the error."""
    try:
        return TypeAdapter(schema).validate_python(dict(tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(piece) for piece in first["loc"])
        raise ConfigError(
            f"{key}={first.get('input')!r}: {first['msg'][0].lower() + first['msg'][1:]}."
        ) from error


def _check_fit(model: Part, data: DataConfig, training: TrainingConfig) -> None:
    """Parts that are right by themselves may still not fit together."""
    if data.spatial_dims not in (2, 3):
        raise ConfigError(
            f"data.patch={list(data.patch)}: two numbers for a 2-D task, three for a 3-D one."
        )
    if data.spacing_mm is not None and len(data.spacing_mm) != 3:
        raise ConfigError(
            f"data.spacing_mm={list(data.spacing_mm)}: three numbers in mm, or null to resize images to the patch."
        )
    if data.task == "own":
        _check_own(model, data, training)
    elif len(data.labels) < 2 or len(set(data.labels)) != len(data.labels):
        raise ConfigError(
            f"data.labels={list(data.labels)}: at least two classes, each named once."
        )
    elif (data.task == "segmentation") != str(training.loss.get("_target_")).startswith(
        "monai.losses."
    ):
        raise ConfigError(
            f"The loss of this training is not one for {data.task}: choose training=default or training=classification."
        )
    dims = model.get("spatial_dims")
    if dims is not None and dims != data.spatial_dims:
        raise ConfigError(
            f"The model is {dims}-D but data.patch={list(data.patch)} is {data.spatial_dims}-D: "
            "choose a model and data of the same dimension (for example model=unet_2d data=brain_tissue_slices)."
        )


def _check_own(model: Part, data: DataConfig, training: TrainingConfig) -> None:
    """Hospitals with tasks of their own share an encoder, and name their classes at home."""
    if data.labels:
        raise ConfigError(
            f"data.labels={list(data.labels)}: with data.task=own every hospital names its classes in its dataset.json."
        )
    homes = (
        (model, "polyclinic_strategies.universal.networks.network."),
        (training.loss, "polyclinic_strategies.universal.networks.task_loss."),
    )
    if not all(str(part.get("_target_")).startswith(home) for part, home in homes):
        raise ConfigError(
            "data.task=own needs a head that is the hospital's and a loss for any task: model=universal training=universal."
        )


def _job_tree(job: JobConfig) -> dict[str, Any]:
    tree: dict[str, Any] = TypeAdapter(JobConfig).dump_python(job, mode="json")
    return tree


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key to value; a flat list of scalars is one leaf."""
    return dict(_walk(tree, prefix))


def _walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _walk(value, f"{name}.")
        else:
            yield name, value


def _plain_name(name: str) -> str:
    """A name of a file in `conf/`, and nothing else."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,63}(/[a-z0-9][a-z0-9_]{0,63})?", name):
        raise ConfigError(f"'{name}' is not a name of conf/.")
    return name


def _check_setting(key: str, value: object) -> Setting:
    """A value that may cross the network: a bounded scalar, or a flat list of them, for a key that names no code."""
    pieces = key.split(".")
    if pieces[0] not in JOB_GROUPS or any(piece.startswith("_") for piece in pieces):
        raise ConfigError(
            f"{key} cannot be set from afar: write a file in conf/ on both sides instead."
        )
    if isinstance(value, list | tuple):
        if len(value) > 256:
            raise ConfigError(f"{key}: a list of {len(value)} values, at most 256 travel.")
        return [_check_scalar(key, item) for item in value]
    return _check_scalar(key, value)


def _check_scalar(key: str, value: object) -> Scalar:
    if isinstance(value, bool | int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and re.fullmatch(r"[\w .,+()/-]{0,100}", value):
        return value
    raise ConfigError(
        f"{key}={value!r} cannot travel: only plain numbers, truth values and short words do."
    )


def _set_leaf(node: DictConfig, key: str, value: Setting) -> None:
    """Set one existing leaf to a value of the same kind."""
    present = OmegaConf.select(node, key, default=node)
    if isinstance(present, DictConfig):
        raise ConfigError(
            f"There is no setting '{key}' in this machine's conf/: install the coordinator's version of polyclinic."
        )
    kind = "list" if OmegaConf.is_list(present) else type(present).__name__
    wanted = "list" if isinstance(value, list) else type(value).__name__
    if kind != wanted and {kind, wanted} != {"int", "float"}:
        raise ConfigError(f"{key}={value!r}: conf/ has a {kind} there.")
    OmegaConf.update(node, key, value)
