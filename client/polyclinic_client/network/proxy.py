"""The way out of a hospital's network: straight, or by the proxy that the environment names.

Nobody else decides this: gRPC, which reads the same variables in ways of its own, is told not to.
A proxy is asked with CONNECT, so that TLS between hospital and coordinator stays whole. What is on
this machine is never sent to one.
"""

import base64
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from polyclinic.errors import ConfigError, ServerUnreachable
from polyclinic.system.listening import join_address
from polyclinic.system.text import clean

# in the order of precedence; http_proxy is for http:// alone
VARIABLES = ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
UNUSED = ("http_proxy", "HTTP_PROXY")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
PORT = 80
PORT_NUMBER = re.compile("[0-9]{1,5}")
ANSWER_BYTES = 16_384  # a proxy's answer to CONNECT, with all headers
DENIED = (b"407", b"401")  # tinyproxy answers wrong credentials with 401


@dataclass(frozen=True)
class Proxy:
    """A proxy that knows CONNECT.

    Attributes:
        host: Its name or address.
        port: Its port.
        variable: Environment variable that names it.
        credentials: USER:PASSWORD; empty for none.
    """

    host: str
    port: int
    variable: str
    credentials: str = ""

    def __str__(self) -> str:
        return f"http://{join_address(self.host, self.port)}"

    def __repr__(self) -> str:  # without the password
        return f"Proxy({self})"


class ProxyFailed(ServerUnreachable):
    """The proxy on the way to the coordinator does not let the connection through."""

    def __init__(self, address: str, proxy: Proxy, problem: str, remedy: str) -> None:
        super().__init__(address, f"the proxy {proxy}: {problem}")
        self.args = (
            f"{address} cannot be reached by the proxy {proxy}, which the environment variable "
            f"{proxy.variable} names: {problem}. {remedy} Name the coordinator's host in no_proxy "
            "if no proxy is needed to reach it.",
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself."""
    address = _address(host)
    if address is not None:
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_loopback)
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def proxy_for(host: str, port: int, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy on the way to a host; None for the straight way.

    Raises:
        ConfigError: A variable names no proxy that could be used.
    """
    known = os.environ if environment is None else environment
    if is_loopback(host):
        return None
    variable = next((name for name in VARIABLES if known.get(name, "").strip()), "")
    exceptions = next((known[name] for name in EXCEPTIONS if known.get(name, "").strip()), "")
    if not variable or is_excepted(host, port, exceptions):
        return None
    return parse_proxy(variable, known[variable].strip())


def parse_proxy(variable: str, url: str) -> Proxy:
    """Read a proxy's URL; `http://` may be left out. Credentials are percent-decoded.

    Raises:
        ConfigError: It is not one; the password is not shown.
    """
    shown = url.rpartition("@")[2][:100]
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or PORT
    except ValueError as error:
        raise ConfigError(
            f"The environment variable {variable} is not a proxy's address ('{shown}'). Write it "
            "as http://PROXY:PORT, or http://USER:PASSWORD@PROXY:PORT."
        ) from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(
            f"The environment variable {variable} names no proxy that can be used ('{shown}'): it "
            "must be one that knows CONNECT and is itself spoken to in plain text, written as "
            "http://PROXY:PORT. For a way without a proxy, name the coordinator's host in no_proxy."
        )
    credentials = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(parts.hostname, port, variable, credentials)


def is_excepted(host: str, port: int, exceptions: str) -> bool:
    """Return whether a host is in a list as no_proxy holds.

    Its items, divided by commas or spaces: `*`; a host's name, which holds for the hosts below it,
    too, as `.suffix` and `*.suffix` do; an address; a network as
    10.0.0.0/8; each may end with `:PORT`.
    """
    return any(_excepts(item, host, port) for item in exceptions.replace(",", " ").split())


def dial(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to a coordinator, by the proxy if there is one on the way.

    Raises:
        ProxyFailed: The proxy does not answer, or refuses.
        OSError: The coordinator does not answer.
        ConfigError: A variable names no proxy that could be used.
    """
    proxy = proxy_for(host, port)
    if proxy is None:
        return socket.create_connection((host, port), timeout=timeout_s)
    address = join_address(host, port)
    try:
        link = socket.create_connection((proxy.host, proxy.port), timeout=timeout_s)
        try:
            _connect(link, proxy, address)
        except BaseException:
            link.close()
            raise
    except OSError as error:
        problem = error.strerror or str(error) or "no answer in time"
        raise ProxyFailed(
            address, proxy, f"it does not answer ({problem})", "Check the variable and the proxy."
        ) from error
    return link


def _connect(link: socket.socket, proxy: Proxy, address: str) -> None:
    """Ask the proxy for a tunnel.

    Raises:
        ProxyFailed: It refuses.
    """
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if proxy.credentials:
        token = base64.b64encode(proxy.credentials.encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    link.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the coordinator's
        byte = link.recv(1)
        answer += byte
        if not byte or len(answer) > ANSWER_BYTES:
            raise ProxyFailed(
                address, proxy, "it speaks no HTTP, or closed the connection", "Check the variable."
            )
    _, _, rest = answer.partition(b" ")
    code, _, reason = rest.split(b"\r\n")[0].partition(b" ")
    if code.startswith(b"2"):
        return
    shown = clean(f"{code[:3].decode('latin-1')} {reason[:80].decode('latin-1')}".strip())
    known = "with the credentials in it" if proxy.credentials else "without credentials"
    if code in DENIED:
        raise ProxyFailed(
            address,
            proxy,
            f"it wants a user and a password, and was asked {known} ({shown})",
            f"Write them into {proxy.variable}: http://USER:PASSWORD@PROXY:PORT, special "
            "characters as %40 for @.",
        )
    raise ProxyFailed(
        address,
        proxy,
        f"it refuses ({shown})",
        f"Ask its operator to allow CONNECT to {address}.",
    )


def _excepts(item: str, host: str, port: int) -> bool:
    """Return whether one item of a list of exceptions holds for a host."""
    name, wanted_port = _split(item.lower())
    if wanted_port is not None and wanted_port != port:
        return False
    if name == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(name, strict=False)
        except (ValueError, TypeError):
            return False
    wanted, asked = name.rstrip("."), host.rstrip(".").lower()
    if wanted.startswith("*."):
        wanted = wanted[1:]
    if wanted.startswith("."):
        return asked.endswith(wanted) or asked == wanted[1:]
    return bool(wanted) and (asked == wanted or asked.endswith(f".{wanted}"))


def _split(item: str) -> tuple[str, int | None]:
    """Divide an exception into its name and its port, if it has one."""
    name, colon, port = item.rpartition(":")
    if item.startswith("["):
        name, _, port = item[1:].partition("]")
        return name, int(port[1:]) if PORT_NUMBER.fullmatch(port[1:]) else None
    # with more than one colon, it is an address of IPv6
    if colon and PORT_NUMBER.fullmatch(port) and ":" not in name:
        return name, int(port)
    return item, None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
