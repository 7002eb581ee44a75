"""Configuration: names in `conf/` and a few settings become frozen dataclasses, checked twice.

Hydra composes here alone, and makes what a configuration names.
"""

import copy
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter

from polyclinic.config.aliases import with_current_names
from polyclinic.config.bundles.settings import with_bundle
from polyclinic.config.folders import CONF, conf_folders, find_names, list_names, targets_in
from polyclinic.config.method_settings import flatten, nest
from polyclinic.config.overrides import read_override
from polyclinic.config.plan_files import with_plan
from polyclinic.config.schemas import Config, DataConfig, Part
from polyclinic.config.targets import check_targets
from polyclinic.config.validation import (
    JOB_GROUPS,
    check_fit,
    check_grid,
    validate,
)
from polyclinic.errors import ConfigError, PolyclinicError, UnknownName
from polyclinic.system.faults import is_out_of_memory
from polyclinic.system.text import first_line

__all__ = [
    "CONF",
    "GROUPS",
    "JOB_GROUPS",
    "as_yaml",
    "expand_strategies",
    "instantiate",
    "list_names",
    "load_config",
    "load_data",
]
GROUPS = ("strategy", "model", "data", "training", "privacy", "deployment", "experiment")
MISSING = object()

OmegaConf.register_new_resolver("count", len, replace=True)


def load_config(overrides: Sequence[str] = (), conf: Path = CONF) -> Config:
    """Compose `conf/` with Hydra overrides.

    Example:
        ```python
        config = polyclinic.load_config(["strategy=averaging/fedprox", "model=unet", "rounds=10"])
        config.rounds, config.data.patch
        ```

    Args:
        overrides: Hydra's `group=name` and `key=value`; `data=FILE.yaml` is a plan's file.
        conf: Folder of the built-in groups; those of installed packages are added to it.

    Returns:
        The checked configuration of one run. Lengths are in mm, patches in voxels, times in s.

    Raises:
        UnknownName: A group has no such name.
        NameTaken: An installed package offers a name that is built in.
        ConfigError: An unknown key, a value of the wrong kind, or parts that do not fit together.
    """
    node, choices = compose_tree(overrides, conf)
    config = validate(Config, {**resolve_tree(node), "choices": choices})
    check_fit(config.model, config.data, config.training)
    return config


def load_data(overrides: Sequence[str] = (), conf: Path = CONF) -> DataConfig:
    """Compose `conf/` for what an image is alone: no model and no training has to fit it.

    Args:
        overrides: Hydra's `group=name` and `key=value`.
        conf: As for `load_config`.

    Raises:
        UnknownName: A group has no such name.
        ConfigError: An unknown key, or a value of the wrong kind.
    """
    node, _ = compose_tree(overrides, conf)
    data = validate(DataConfig, resolve_tree(node)["data"], "data.")
    check_grid(data)
    return data


def expand_strategies(overrides: Sequence[str], conf: Path = CONF) -> list[tuple[str, ...]]:
    """Make a list of overrides for each strategy of `strategy=a,b,c`; they run one after another.

    A setting of strategies, such as `strategy.scale=1`, goes to those that have it. Of a plan, its
    settings are returned: its file is not needed again.

    Raises:
        ConfigError: A strategy named twice, or a setting that none of them has.
    """
    overrides = expand_plan(overrides, conf)
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
    nodes = {name: compose_tree([f"strategy={name}"], conf)[0] for name in names}
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


def instantiate(part: Part, **extra: object) -> Any:
    """Make what a node of a configuration names.

    Args:
        part: The node; its `_target_`, and those inside it, may have names of earlier versions.
        extra: More arguments, and Hydra's own such as `_recursive_`.

    Raises:
        ConfigError: A `_target_` is not on the allow-list (`polyclinic.config.targets`), or the
            class cannot be made with these arguments.
        PolyclinicError: What the class itself says of its arguments.
        MemoryError, RuntimeError: There is not enough memory.
    """
    node: Any = with_current_names(dict(part))
    target = str(node.get("_target_"))
    check_targets([target, *targets_in(node)])
    try:
        return hydra_instantiate(node, _convert_="all", **extra)
    except (HydraException, OmegaConfBaseException) as error:  # the latter of an interpolation
        failed: Exception = error
    cause = failed.__cause__ or failed
    if isinstance(cause, PolyclinicError) or is_out_of_memory(cause):
        raise cause
    text = first_line(cause)
    raise ConfigError(f"{target} cannot be made with these settings: {text}") from failed


def as_yaml(config: Config) -> str:
    """Write the resolved configuration as it is kept with a run."""
    tree: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    return OmegaConf.to_yaml(OmegaConf.create({**tree, "training": flatten(tree["training"])}))


def compose_tree(overrides: Sequence[str], conf: Path) -> tuple[DictConfig, dict[str, str]]:
    """Compose with Hydra, and turn its errors into plain sentences."""
    overrides, changes = with_bundle(expand_plan(overrides, conf))
    read = [_read_override(text, conf) for text in overrides]
    asked = (*read, f"hydra.searchpath=[{','.join(_other_folders(conf))}]")
    node, choices = _composed(asked, conf, _files_of(conf))
    node = copy.deepcopy(node)
    for key, value in changes.items():
        OmegaConf.update(node, key, value)
    return node, dict(choices)


def expand_plan(overrides: Sequence[str], conf: Path = CONF) -> tuple[str, ...]:
    """Replace a plan's file, `data=FILE.yaml`, by the plan's settings.

    Raises:
        ConfigError: The plan cannot be read, or was changed.
    """

    def has(key: str) -> bool:
        model = [text for text in overrides if text.partition("=")[0] == "model"]
        return OmegaConf.select(compose_tree(model, conf)[0], key, default=MISSING) is not MISSING

    return with_plan(overrides, has)


@lru_cache(maxsize=64)  # a run composes the same few jobs again and again, each for 0.3 s
def _composed(
    asked: tuple[str, ...], conf: Path, _files: object
) -> tuple[DictConfig, dict[str, str]]:
    """Compose what was not composed before from the same files."""
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            node = compose("config", overrides=list(asked), return_hydra_config=True)
            chosen = node.hydra.runtime.choices
            choices = {
                group: str(chosen[group]) for group in GROUPS if chosen.get(group) is not None
            }
            with open_dict(node):
                del node["hydra"]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain_hydra(error)) from error
    return node, choices


def _files_of(conf: Path) -> frozenset[tuple[str, int]]:
    """Return all files of a configuration, with the times of their last change."""
    return frozenset(
        (str(path), path.stat().st_mtime_ns)
        for folder in conf_folders(conf)
        for path in folder.path.rglob("*.yaml")
    )


def _other_folders(conf: Path) -> list[str]:
    """Return the folders of installed packages, in Hydra's words; they may not repeat a name."""
    found = [json.dumps(f"file://{folder.path}") for folder in conf_folders(conf)[1:]]
    for group in GROUPS if found else ():
        find_names(group, conf)
    return found


def _read_override(text: str, conf: Path) -> str:
    """Return a setting as Hydra reads it; find a wrong name first, to say it better."""
    read, override = read_override(text)
    group, name = override.key_or_group, str(override.value())
    if group in GROUPS and name not in list_names(group, conf):
        raise UnknownName(group, name, list_names(group, conf))
    return read


def explain_hydra(error: Exception) -> str:
    """Say in one sentence what Hydra or OmegaConf has to say."""
    text = str(error.__cause__ or error)
    key = re.search(r"full_key: ([\w.\[\]]+)", text) or re.search(
        r"Key '(\w+)' is not in struct", text
    )
    if "not in struct" in text and key:
        return (
            f"There is no setting '{key.group(1)}'. `polyclinic-server run --help` lists the "
            "settings."
        )
    return " ".join(text.splitlines()[0].split())


def resolve_tree(node: DictConfig) -> dict[str, Any]:
    """Replace every interpolation and every old `_target_`, and check the settings of methods."""
    try:
        tree = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_hydra(error)) from error
    assert isinstance(tree, dict)
    tree.pop("experiment", None)
    found: Any = with_current_names({str(key): value for key, value in tree.items()})
    return {**found, "training": nest(found["training"])}
