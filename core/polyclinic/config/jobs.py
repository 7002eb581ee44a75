"""Jobs: the part of a configuration that a hospital builds again, from names and scalars.

A coordinator sends a job's names and scalars to a hospital, never a path to code: the hospital
looks the names up in its own `conf/`, sets only scalars that exist there, and compares digests.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter

from polyclinic.config.compose import compose_tree, explain_hydra, resolve_tree
from polyclinic.config.folders import CONF, targets_in
from polyclinic.config.method_settings import flatten
from polyclinic.config.schemas import Config, JobConfig, Setting
from polyclinic.config.targets import check_targets
from polyclinic.config.validation import JOB_GROUPS, check_fit, check_name, check_setting, validate
from polyclinic.errors import ConfigError
from polyclinic.system.text import json_digest


def job_settings(config: Config, conf: Path = CONF) -> tuple[dict[str, str], dict[str, Setting]]:
    """List what must travel for a hospital to build the same job.

    Returns:
        Group to name, and the scalars that differ from what those names say.

    Raises:
        ConfigError: A setting was changed that is not a scalar or a flat list of scalars, or that
            names code.
    """
    names = {group: config.choices[group] for group in JOB_GROUPS}
    plain = _leaves(job_tree(load_job(names, {}, conf)))
    wanted = _leaves(job_tree(JobConfig(config.model, config.data, config.training)))
    changed = {key: value for key, value in wanted.items() if plain.get(key) != value}
    if gone := sorted(set(plain) - set(wanted)):
        raise ConfigError(
            f"{gone[0]} cannot be removed on the command line: write a new file in "
            f"conf/{gone[0].split('.')[0]}/."
        )
    settings = {
        key: check_setting(key, value)
        for key, value in sorted(changed.items())
        if not _holds_parts(value)
    }
    if len(settings) < len(changed):
        _check_follows(load_job(names, settings, conf), wanted)
    return names, settings


def load_job(
    names: Mapping[str, str], settings: Mapping[str, Setting], conf: Path = CONF
) -> JobConfig:
    """Build a job from names and scalars that arrived, with this machine's own `conf/`.

    Args:
        names: Group to name, for each of `JOB_GROUPS`.
        settings: Dotted key to value; every key must exist and hold a value of the same kind.
        conf: As for `load_config`.

    Raises:
        UnknownName: This machine's `conf/` has no such name.
        ConfigError: A key that does not exist, that names code, or a value of another kind.
    """
    if set(names) != set(JOB_GROUPS):
        found = ", ".join(sorted(names)) or "nothing"
        raise ConfigError(f"A job names {', '.join(JOB_GROUPS)}; this one names {found}.")
    node, _ = compose_tree(
        [f"{group}={check_name(name)}" for group, name in sorted(names.items())], conf
    )
    for key, value in settings.items():
        _set_leaf(node, key, check_setting(key, value))
    tree = resolve_tree(node)
    check_targets(targets_in({group: tree[group] for group in JOB_GROUPS}))
    job = validate(JobConfig, {group: tree[group] for group in JOB_GROUPS})
    check_fit(job.model, job.data, job.training)
    return job


def job_digests(job: JobConfig) -> dict[str, str]:
    """Compute the SHA-256 of each resolved group: equal digests build equal things."""
    tree = job_tree(job)
    return {group: json_digest(tree[group]) for group in JOB_GROUPS}


def job_tree(job: JobConfig) -> dict[str, Any]:
    """Turn a job into plain values, as its YAML would say them."""
    tree: dict[str, Any] = TypeAdapter(JobConfig).dump_python(job, mode="json")
    return {**tree, "training": flatten(tree["training"])}


def _holds_parts(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(each, Mapping) for each in value)


def _check_follows(rebuilt: JobConfig, wanted: Mapping[str, Any]) -> None:
    """See that lists of parts, which do not travel, follow from the settings that do.

    Raises:
        ConfigError: One does not.
    """
    found = _leaves(job_tree(rebuilt))
    for key, value in wanted.items():
        if found.get(key) != value:
            check_setting(key, value)
            raise ConfigError(f"{key} cannot travel: write a file in conf/ on both sides instead.")


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Map dotted keys to values; a flat list of scalars is one leaf."""
    return dict(_walk(tree, prefix))


def _walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _walk(value, f"{name}.")
        else:
            yield name, value


def _set_leaf(node: DictConfig, key: str, value: Setting) -> None:
    """Set one existing leaf to a value of the same kind; OmegaConf's selectors play no part."""
    *above, last = key.split(".")
    try:
        parent: Any = node
        for piece in above:
            parent = parent[piece] if isinstance(parent, DictConfig) and piece in parent else None
        present = parent[last] if isinstance(parent, DictConfig) and last in parent else node
    except OmegaConfBaseException as error:
        raise ConfigError(explain_hydra(error)) from error
    if isinstance(present, DictConfig):
        raise ConfigError(
            f"There is no setting '{key}' in this machine's conf/: install the coordinator's "
            "version of polyclinic."
        )
    kind = "list" if OmegaConf.is_list(present) else type(present).__name__
    wanted = "list" if isinstance(value, list) else type(value).__name__
    if kind != wanted and {kind, wanted} != {"int", "float"}:
        raise ConfigError(f"{key}={value!r}: conf/ has a {kind} there.")
    parent[last] = value
