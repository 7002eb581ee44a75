"""Extensions that installed packages offer, found by their entry points.

There are four groups: `polyclinic.methods`, `polyclinic.statistics`, `polyclinic.conf` and
`polyclinic.commands`. Only code that is installed on this machine is loaded.
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
OWN = "polyclinic"  # distribution of the built-in extensions


@cache
def offered(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name, built-in ones first.

    Raises:
        ConfigError: Two packages offer the same name.
    """
    found: dict[str, EntryPoint] = {}
    entries = entry_points(group=group)
    for entry in sorted(entries, key=lambda entry: (not is_own(entry), entry.name)):
        if entry.name in found and found[entry.name].value != entry.value:
            raise ConfigError(
                f"{provider(found[entry.name])} and {provider(entry)} both offer '{entry.name}' in "
                f"{group}: uninstall one of them."
            )
        found[entry.name] = entry
    return found


def plugins() -> Mapping[str, str]:
    """Return the versions of the other packages that extend polyclinic, by package."""
    entries = [entry for group in GROUPS for entry in offered(group).values() if not is_own(entry)]
    return {entry.dist.name: entry.dist.version for entry in entries if entry.dist}


def provider(entry: EntryPoint) -> str:
    """Return the name of the package that offers an entry point."""
    return entry.dist.name if entry.dist else "an unknown package"


def is_own(entry: EntryPoint) -> bool:
    """Return whether an entry point is built in."""
    return provider(entry) == OWN


def resolve(reference: str) -> Any:
    """Import the object that `package.module:name` refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
