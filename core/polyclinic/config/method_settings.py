"""Nodes `training.NAME` of the configuration: the settings of one method, checked by its schema."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from polyclinic.config.schemas import TrainingConfig
from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError
from polyclinic.system.plugins import METHODS, offered

_PLAIN = {field.name for field in fields(TrainingConfig)} - {"methods"}


def nest(training: Mapping[str, Any]) -> dict[str, Any]:
    """Make the settings of methods, and put them under `methods`.

    Args:
        training: The node `training` as it was composed.

    Raises:
        ConfigError: No installed method has settings of that name, or a setting is wrong.
    """
    plain = {key: value for key, value in training.items() if key in _PLAIN}
    others = {key: value for key, value in training.items() if key not in _PLAIN}
    made = {key: _make(key, value) for key, value in others.items() if value is not None}
    return {**plain, "methods": made}


def flatten(training: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `nest` in plain values, such as those of a configuration that is written down."""
    plain = {key: value for key, value in training.items() if key != "methods"}
    return {**plain, **training["methods"]}


def _make(name: str, values: Mapping[str, Any]) -> Any:
    entry = offered(METHODS).get(name)
    schema = None if entry is None else entry.load().load("settings")
    if schema is None:
        raise ConfigError(
            f"There is no setting 'training.{name}': no method of that name with settings of its "
            "own is installed here. Install the package that brings it."
        )
    return validate(schema, values, f"training.{name}.")
