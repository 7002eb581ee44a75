"""Folders of configuration groups: the built-in one, and those of installed packages.

A package offers its folder by an entry point of the group `polyclinic.conf`. The entry point's
value is a package whose folder holds strategy/, model/, data/ ...; it needs no code of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from polyclinic.errors import ConfigError, NameTaken
from polyclinic.system.plugins import CONF as PLUGIN_CONF
from polyclinic.system.plugins import GROUPS as ENTRY_POINTS
from polyclinic.system.plugins import OWN, is_own, offered, plugins, provider

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(frozen=True)
class ConfFolder:
    """A folder that holds a folder for each group.

    Attributes:
        path: The folder.
        provider: Distribution that brings it.
    """

    path: Path
    provider: str

    def names(self, group: str) -> Iterator[str]:
        """List the names of a group, in no order."""
        folder = self.path / group
        for path in folder.rglob("*.yaml"):
            yield path.relative_to(folder).with_suffix("").as_posix()


def conf_folders(conf: Path = CONF) -> tuple[ConfFolder, ...]:
    """List all folders: the built-in one, or another in its place, then those of other packages.

    Raises:
        ConfigError: A package offers a folder that it does not have.
    """
    others = [entry for entry in offered(PLUGIN_CONF).values() if not is_own(entry)]
    return (
        ConfFolder(conf, OWN),
        *(ConfFolder(_folder_of(entry.value), provider(entry)) for entry in others),
    )


def find_names(group: str, conf: Path = CONF) -> Mapping[str, ConfFolder]:
    """Map each name of a group to the folder that has it.

    Raises:
        NameTaken: A package offers a name that is built in, or that another package offers.
    """
    found: dict[str, ConfFolder] = {}
    for folder in conf_folders(conf):
        for name in folder.names(group):
            if name in found:
                raise NameTaken(group, name, folder.provider, found[name].provider)
            found[name] = folder
    return found


def list_names(group: str, conf: Path = CONF) -> list[str]:
    """List the names of a group, those of installed packages included."""
    return sorted(find_names(group, conf))


def package_of(target: str) -> str | None:
    """Find the installed package, other than polyclinic, that a dotted name of code belongs to."""
    return _packages().get(target.partition(".")[0])


def plugins_named(names: Mapping[str, str], tree: object) -> dict[str, str]:
    """List the packages, with versions, that names of groups and a configuration come from.

    Args:
        names: Group to name.
        tree: Nested dictionaries and lists; every `_target_` in them counts.
    """
    versions, found = plugins(), {find_names(group)[name].provider for group, name in names.items()}
    found |= {owner for target in targets_in(tree) if (owner := package_of(target))}
    return {name: versions[name] for name in sorted(found - {OWN})}


def targets_in(tree: object) -> Iterator[str]:
    """Find every `_target_` in nested dictionaries and lists."""
    if isinstance(tree, Mapping):
        target = tree.get("_target_")
        if isinstance(target, str):
            yield target
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from targets_in(value)


def _packages() -> dict[str, str]:
    """Map each top-level package that an entry point names to its distribution."""
    entries = [entry for group in ENTRY_POINTS for entry in offered(group).values()]
    return {
        entry.value.partition(":")[0].partition(".")[0]: provider(entry)
        for entry in entries
        if not is_own(entry)
    }


def _folder_of(package: str) -> Path:
    """Find a package's folder without running the package."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        return Path(folder).resolve()
    raise ConfigError(
        f"An installed package offers configuration in '{package}', which is not there: install "
        "that package again."
    )
