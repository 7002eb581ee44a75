"""The hospitals that this process serves, each opened once."""

from pathlib import Path
from typing import Any

from polyclinic.errors import DatasetInvalid
from polyclinic_client.site.site import Site

_SITES: dict[tuple[str, str, str, str], Site] = {}


def open_site(node_config: dict[str, Any]) -> Site:
    """Open the hospital that this SuperNode serves, once in a process.

    Raises:
        DatasetInvalid: The node was not told its site, data and state.
    """
    try:
        key = _key(node_config)
    except KeyError as error:
        raise DatasetInvalid(
            Path("SuperNode"),
            f"{error} is not configured",
            "Start it with `polyclinic-client join`, or name site, data and state in "
            "--node-config.",
        ) from error
    if key not in _SITES:
        _SITES[key] = Site(key[0], Path(key[1]), Path(key[2]), mode=key[3])
    return _SITES[key]


def close_site(node_config: dict[str, Any]) -> None:
    """Forget a hospital that `open_site` opened, with what it keeps in memory."""
    _SITES.pop(_key(node_config), None)


def _key(node_config: dict[str, Any]) -> tuple[str, str, str, str]:
    site, data, state = (str(node_config[name]) for name in ("site", "data", "state"))
    return site, data, state, str(node_config.get("mode", "train"))
