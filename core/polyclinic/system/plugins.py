"""Extensions that other installed packages offer, found by their entry points.

Four groups: `polyclinic.methods`, `polyclinic.statistics`, `polyclinic.conf`, `polyclinic.commands`.
Nothing that is not installed on this machine is ever loaded.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from polyclinic.errors import ConfigError

METHODS, STATISTICS = "polyclinic.methods", "polyclinic.statistics"
CONF, COMMANDS = "polyclinic.conf", "polyclinic.commands"
GROUPS = (METHODS, STATISTICS, CONF, COMMANDS)
OWN = "polyclinic"  # the distribution that holds what is built in


@cache
def offered(group: str) -> Mapping[str, EntryPoint]:
    """List what installed packages offer in a group, by name; what is built in comes first.

    Raises:
        ConfigError: Two packages offer the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(
        entry_points(group=group), key=lambda entry: (not is_own(entry), entry.name)
    ):
        if entry.name in found and found[entry.name].value != entry.value:
            raise ConfigError(
                f"{provider(found[entry.name])} and {provider(entry)} both offer '{entry.name}' in "
                f"{group}: uninstall one of them."
            )
        found[entry.name] = entry
    return found


def plugins() -> Mapping[str, str]:
    """List the other packages that extend polyclinic here, with their versions."""
    entries = [entry for group in GROUPS for entry in offered(group).values() if not is_own(entry)]
    return {entry.dist.name: entry.dist.version for entry in entries if entry.dist}


def provider(entry: EntryPoint) -> str:
    """Name the package that offers something."""
    return entry.dist.name if entry.dist else "an unknown package"


def is_own(entry: EntryPoint) -> bool:
    """Tell whether something is built in."""
    return provider(entry) == OWN


def resolve(reference: str) -> Any:
    """Import what `package.module:name` refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
