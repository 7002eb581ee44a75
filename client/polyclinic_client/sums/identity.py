"""The key by which a hospital signs in sums: its enrolled one; its own where no keys are used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyclinic.security.keys import PRIVATE, PrivateKey, load_private_key, make_key

FOLDER = "identity"  # of a key that the hospital made itself, in its state folder


@dataclass(frozen=True)
class Identity:
    """How a hospital signs.

    Attributes:
        key: Its private key.
        authority: `authority_digest` of the coordinator's authority; empty without keys.
    """

    key: PrivateKey
    authority: bytes


def identity_of(node_config: Mapping[str, object]) -> Identity:
    """Load a hospital's key, or make one where the federation uses none.

    Args:
        node_config: What the hospital's worker is told; `key` and `authority` with keys.

    Raises:
        KeyInvalid: The key cannot be read.
    """
    if named := node_config.get("key"):
        authority = bytes.fromhex(str(node_config.get("authority", "")))
        return Identity(load_private_key(Path(str(named))), authority)
    folder = Path(str(node_config["state"])) / FOLDER
    if not (folder / PRIVATE).exists():
        make_key(folder, str(node_config["site"]))
    return Identity(load_private_key(folder / PRIVATE), b"")
