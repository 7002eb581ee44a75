"""What a page reads: requests, the hash of a token, its address; and a run, as it is drawn."""

import json
from pathlib import Path
from random import Random
from typing import Any

from starlette.exceptions import HTTPException

from polyclinic.errors import ConfigError
from polyclinic.federation.events import EventLog
from polyclinic.web.serving import Address
from polyclinic.web.shell import parse_body, show_utc
from polyclinic.web.tokens import make_token, read_token
from polyclinic_server.page.comparing import read_settings
from polyclinic_server.page.curves import draw
from polyclinic_server.page.following import Following
from polyclinic_server.page.metrics import expose
from polyclinic_server.page.watching import Watch
from tests.fuzz.mutation import as_json, as_lines, damaged
from tests.fuzz.reader import Reader

BODY = {"name": "st-mary", "reason": "lost"}
RUN = {"state": "running", "pid": 1, "rounds": 3, "arms": [{"name": "fedavg", "title": "FedAvg"}]}
TOLD: dict[str, Any] = {"time": 1.7e9, "arm": "fedavg", "site": "north", "round": 1}
EVENTS: list[Any] = [
    {**TOLD, "kind": "joined", "training": 4},
    {**TOLD, "kind": "arm_start", "title": "FedAvg", "rounds": 3},
    {**TOLD, "kind": "answered", "phase": "train", "loss": 0.5},
    {**TOLD, "kind": "answered", "phase": "evaluate", "score": 0.5, "round": 2},
    {**TOLD, "kind": "failed", "phase": "train", "reason": "full"},
    {**TOLD, "kind": "round_end"},
]
HASH = b"0" * 64
SETTINGS = b"a: 1\n---\nrounds: 3\ntraining: {lr: 0.1, names: [a, b]}\nmodel:\n  when: 2026-01-01\n"


def _draw_token(random: Random) -> bytes:
    return HASH if random.random() < 0.2 else damaged(HASH, random)


def _read_token(content: bytes, folder: Path) -> object:
    path = folder / "page.token"
    path.write_bytes(content)
    found = read_token(path)
    assert found is not None
    return found.fits(make_token()[0])


def _read_run(content: bytes, folder: Path) -> object:
    """Follow a run, and make all that the page shows of it."""
    path = folder / "runs" / "fuzzed"
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.json").write_text(json.dumps(RUN))
    (path / "events.jsonl").write_bytes(content)
    following = Following(path, EventLog())
    following.look(events=True)
    charts = [draw(following, quantity, "title") for quantity in ("loss", "score")]
    moments = [show_utc(row.since) for row in following.rows.values()]
    return charts, moments, following.left_s(), expose(Watch(folder / "runs").look())


READERS = (
    Reader(
        "page-request",
        json.dumps(BODY).encode(),
        lambda random: as_json(BODY, random),
        lambda content, _folder: parse_body(content),
        (HTTPException,),
    ),
    Reader("page-token", HASH, _draw_token, _read_token, (ConfigError,)),
    Reader(
        "page-address",
        b"127.0.0.1:8080",
        lambda random: damaged(random.choice((b"8080", b"[::1]:80", b"a.example:1")), random),
        lambda content, _folder: Address.parse(content.decode("utf-8", "replace")),
        (ConfigError,),
    ),
    Reader(
        "page-settings",
        SETTINGS,
        lambda random: damaged(SETTINGS, random),
        lambda content, _folder: read_settings(content.decode("utf-8", "replace")),
        (ConfigError,),
    ),
    Reader(
        "page-run",
        "".join(json.dumps(each) + "\n" for each in EVENTS).encode(),
        lambda random: as_lines(EVENTS, random),
        _read_run,
        (),
    ),
)
