"""Settings and addresses, as people and orders write them."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from polyclinic.config.folders import targets_in
from polyclinic.config.jobs import job_tree, load_job
from polyclinic.config.overrides import read_override
from polyclinic.config.targets import allowed_targets
from polyclinic.errors import AddressInvalid, ConfigError, LimitExceeded
from polyclinic.system.processes import parse_address
from polyclinic_client.network.proxy import _excepts
from polyclinic_client.policy.limits import check_limits
from polyclinic_client.policy.policy import Policy
from tests.fuzz.messages import NAMES, ORDER
from tests.fuzz.mutation import TEXTS, changed, damaged, fault
from tests.fuzz.reader import Reader, text_reader


def _draw_override(random: Random) -> bytes:
    text = random.choice(OVERRIDES)
    kind = random.randrange(4)
    if kind == 0:
        key = text.partition("=")[0]
        value = random.choice(TEXTS) if random.random() < 0.5 else str(fault(random))
        return f"{key}={value}".encode("utf-8", "surrogatepass")[:3000]
    if kind == 1:
        place = random.randrange(len(text))
        inserted = random.choice("=~'\"\\[]{}(),:$+@%#\n\0 ") * random.choice((1, 1, 2, 200))
        return (text[:place] + inserted + text[place:]).encode()
    return damaged(text.encode(), random)


def _read_override(content: bytes, folder: Path) -> None:
    text, found = read_override(content.decode("utf-8", "surrogateescape"))
    assert isinstance(text, str) and not found.is_sweep_override()


def _read_settings(content: bytes, folder: Path) -> None:
    """Read the settings of an order: no target comes of them that conf/ does not name."""
    settings = json.loads(content)
    job = load_job(NAMES, settings)
    check_limits(Policy(), ORDER, job)
    found = list(targets_in(job_tree(job)))
    assert found == _honest_targets() and set(found) <= allowed_targets()


@cache
def _honest_targets() -> list[str]:
    return list(targets_in(job_tree(load_job(NAMES, {}))))


def _draw_settings(random: Random) -> bytes:
    found = changed(dict(random.sample(sorted(SET.items()), 2)), random, 2)
    if random.random() < 0.4:
        key = ".".join(random.choice(PIECES) for _ in range(random.randint(1, 4)))
        found = {key: fault(random)}
    return json.dumps(found if isinstance(found, dict) else {"model": found}).encode()


SET: dict[str, Any] = {
    "training.epochs": 2,
    "model.channels": [8, 16],
    "data.patch": [32, 32],
    "training.batch_size": 2,
    "data.labels": ["background", "tumour"],
    "training.learning_rate": 0.1,
    "model.dropout": 0.1,
}
PIECES = (
    *("model", "data", "training", "optimizer", "loss", "intensity", "augment", "channels", "norm"),
    *("patch", "lr", "epochs", "0", "_target_", "[_target_]", "[0]", "[_args_]", "", "a" * 300),
)
OVERRIDES = (
    *("rounds=3", "strategy=averaging/fedavg", "data.labels=[background,tumour]", "+model.a=1"),
    *("run='a name'", "training.optimizer={lr: 0.1}", "~base", "base=~/models/m.safetensors"),
)
READERS = (
    Reader(
        "proxy-exception",
        b"[::1]:9092",
        lambda random: (
            f"host:{random.choice(TEXTS)}".encode("utf-8", "replace")
            if random.random() < 0.5
            else damaged(random.choice((b"[::1]:9092", b"*.example:80", b"10.0.0.0/8")), random)
        ),
        text_reader(lambda text: _excepts(text, "host.example", 9092)),
        (),
    ),
    Reader(
        "host-address",
        b"host.example:9092",
        lambda random: (
            f"host:{random.choice(TEXTS)}".encode("utf-8", "replace")
            if random.random() < 0.5
            else damaged(b"[::1]:9092", random)
        ),
        text_reader(parse_address),
        (AddressInvalid,),
    ),
    Reader("override", b"rounds=3", _draw_override, _read_override, (ConfigError,)),
    Reader(
        "settings",
        json.dumps(SET).encode(),
        _draw_settings,
        _read_settings,
        (ConfigError, LimitExceeded),
    ),
)
