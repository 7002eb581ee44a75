"""The allow-list of `_target_`: the classes that a configuration may make.

It holds what the built-in conf/ names, and what conf folders of installed packages name. Built-in
files may name things from `LIBRARIES`, a package's files also things from its own packages.
"""

from collections.abc import Iterable
from functools import cache

import yaml

from polyclinic.config.aliases import current_name
from polyclinic.config.folders import ConfFolder, conf_folders, package_of, targets_in
from polyclinic.errors import ConfigError
from polyclinic.system.plugins import OWN

LIBRARIES = (
    "monai.",
    "torch.",
    "flwr.serverapp.strategy.",
    "polyclinic_strategies.",
    "polyclinic.",
)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_allowed_here: set[str] = set()


def allow_targets(*targets: str) -> None:
    """Allow more classes in this process alone: for research code, and for tests."""
    _allowed_here.update(targets)


def check_targets(targets: Iterable[str]) -> None:
    """Refuse what is not on the allow-list.

    Raises:
        ConfigError: Neither the built-in conf/ nor an installed package's names one of these.
    """
    for target in targets:
        if target not in allowed_targets() and target not in _allowed_here:
            raise ConfigError(
                f"_target_ {target}: only what conf/ names here, or the conf/ of an installed "
                "package, can be made. Write a file in conf/ that names it."
            )


@cache
def allowed_targets() -> frozenset[str]:
    """Collect the `_target_` of all conf folders, under their current names."""
    return frozenset(
        target
        for folder in conf_folders()
        for path in sorted(folder.path.rglob("*.yaml"))
        for target in map(current_name, targets_in(yaml.load(path.read_text(), _LOADER)))
        if _may_name(folder, target)
    )


def _may_name(folder: ConfFolder, target: str) -> bool:
    own = folder.provider != OWN and package_of(target) == folder.provider
    return own or target.startswith(LIBRARIES)
