"""A network namespace of its own, in which packets can be dropped.

Only loopback exists in it, and the machine's network is not touched.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MARK = "POLYCLINIC_BENCHMARK_IN_OWN_NETWORK"


def is_own() -> bool:
    """Tell whether this process is in it."""
    return MARK in os.environ


def enter_own_network() -> str | None:
    """Continue in a network namespace in which only loopback exists.

    Returns:
        Why that is impossible, if it is.
    """
    if is_own():
        _run("ip", "link", "set", "lo", "up", "mtu", "1500")
        return None
    if not all(map(shutil.which, ("unshare", "ip", "iptables"))):
        return "unshare, ip or iptables is missing"
    unshare = (
        ["unshare", "--net"]
        if os.geteuid() == 0
        else ["unshare", "--user", "--map-root-user", "--net"]
    )
    trial = (
        "ip link set lo up && iptables -A INPUT -i lo -p tcp "
        "-m statistic --mode random --probability 0.5 -j DROP"
    )
    tried = subprocess.run(
        [*unshare, "sh", "-c", trial], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return tried.stderr.strip() or "unshare failed"
    os.environ[MARK] = "1"
    return os.execvp(unshare[0], [*unshare, sys.executable, *sys.argv])


@contextmanager
def dropping(port: int, share: float) -> Iterator[Callable[[], tuple[int, int]]]:
    """Drop a share of the packets of a loopback port; yield a function that counts packets."""
    rules = []
    chosen = (
        ["-m", "statistic", "--mode", "random", "--probability", str(share)] if share < 1 else []
    )
    for side in ("--dport", "--sport"):
        match = ["INPUT", "-i", "lo", "-p", "tcp", side, str(port)]
        rules += [match, [*match, *chosen, "-j", "DROP"]]  # the first rule counts

    def counted() -> tuple[int, int]:
        lines = _run("iptables", "-nvxL", "INPUT").splitlines()
        mine = [
            line.split()
            for line in lines
            if line.rstrip().endswith(f":{port}") or f":{port} " in line
        ]
        seen, dropped = (
            [int(words[0]) for words in mine if (words[2] == "DROP") is wanted]
            for wanted in (False, True)
        )
        return sum(seen), sum(dropped)

    added = []
    try:
        for rule in rules:
            _run("iptables", "-A", *rule)
            added.append(rule)
        yield counted
    finally:
        for rule in added:
            _run("iptables", "-D", *rule)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
