"""Addresses to listen on, of IPv4 and IPv6, and why one cannot be had."""

import errno
import socket

from polyclinic.errors import AddressForeign, BindFailed, HostUnknown, PortForbidden, PortTaken

EVERYWHERE_6 = "::"  # IPv4, too
FOREIGN = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def join_address(host: str, port: int) -> str:
    """Write HOST:PORT, with brackets around an address of IPv6."""
    plain = host.strip("[]")
    return f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"


def open_listener(host: str, port: int, setting: str, backlog: int = 0) -> socket.socket:
    """Listen on an address; `::` takes connections of both families.

    Args:
        host: Address to listen on, or a name of one.
        port: Port, or 0 for a free one.
        setting: Name of the port's setting, for the message.
        backlog: Number of connections that may wait; 0 only claims the port.

    Raises:
        BindFailed: The subclass says why.
    """
    plain, host_setting = host.strip("[]"), setting.replace("port", "host")
    host_setting = host_setting.replace("NUMBER", "ADDRESS")
    try:
        found = socket.getaddrinfo(plain, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise HostUnknown(plain, host_setting) from error
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = None
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = int(plain != EVERYWHERE_6)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        listener.bind(address)
        if backlog:
            listener.listen(backlog)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _reason(error, plain, port, setting, host_setting) from error
    return listener


def claim_port(host: str, port: int, setting: str) -> int:
    """Return the port if it is free; for 0, return a free one.

    Args:
        host: Address to listen on.
        port: Wanted port, or 0.
        setting: Name of the setting, for the message.

    Raises:
        BindFailed: It cannot be had; the subclass says why.
    """
    with open_listener(host, port, setting) as probe:
        return int(probe.getsockname()[1])


def _reason(error: OSError, host: str, port: int, setting: str, host_setting: str) -> BindFailed:
    if error.errno == errno.EADDRINUSE:
        return PortTaken(host, port, setting)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PortForbidden(host, port, setting)
    if error.errno in FOREIGN:
        return AddressForeign(host, host_setting)
    return BindFailed(
        f"Nothing can listen on port {port} of {host} ({error.strerror or error}). Choose another "
        f"address with {host_setting}, or another port with {setting}."
    )
