"""Which segmentation service is asked, how it is trusted, and what warps for it."""

from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.security.kit import Kit
from polyclinic_client.network.connection import Connection, make_connection

PORT = 9443
SECRET = "proxy.secret"  # in the state folder
GENERATOR = "generator.safetensors"
NAME = "this-machine"  # without keys nobody's name is known


def service_connection(
    server: str | None,
    kit: Path | None,
    key: Path | None,
    *,
    insecure: bool,
    state: Path | None = None,
) -> Connection:
    """Find the segmentation service's address, and how it is trusted.

    Raises:
        ConfigError: Options that contradict each other, or something is missing.
        AddressInvalid, KitInvalid, KeyInvalid: As for `make_connection`.
    """
    if insecure and not server:
        raise ConfigError(
            "--insecure needs --server 127.0.0.1:PORT, as the service said it at its start."
        )
    if kit is None and not insecure:
        raise ConfigError(
            "Ask with the kit that the coordinator sent: --kit FILE. To try it on one machine "
            f"without keys: --insecure --server 127.0.0.1:{PORT}."
        )
    if kit is not None and server is None:
        server = f"{Kit.read(kit).server.rpartition(':')[0]}:{PORT}"
    name = NAME if insecure else None
    return make_connection(server, name, kit, key, insecure=insecure, state=state)


def choose_generator(generator: Path | None, kit: Path | None) -> Path:
    """Find the generator's file.

    Raises:
        ConfigError: None is named, or there is none.
    """
    if generator is None and kit is None:
        raise ConfigError(
            "Name the generator that was trained with the service's model: --generator FILE."
        )
    path = generator or (kit or Path()).parent / GENERATOR
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no generator here. Ask whoever runs the service for it, and name it "
            "with --generator FILE."
        )
    return path
