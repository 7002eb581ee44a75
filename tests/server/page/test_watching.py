"""What the page knows of runs: read while they grow, after a restart, and if damaged."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from polyclinic.federation.events import (
    Answered,
    ArmStart,
    EventLog,
    Failed,
    Joined,
    Left,
    Refused,
    RoundEnd,
)
from polyclinic_server.page.fleet import Line
from polyclinic_server.page.following import MOST_LINES, Following, Series
from polyclinic_server.page.metrics import expose
from polyclinic_server.page.watching import Watch
from polyclinic_server.page.webhook import Webhook
from tests.server.page.served import begin_run, record, served

UP = Line("oslo", online=True, since=100.0, heard=190.0, version="0.1.0")


class Lines:
    """A fleet whose lines a test sets."""

    def __init__(self, *lines: Line) -> None:
        self.lines = lines

    def hospitals(self) -> tuple[Line, ...]:
        return self.lines


def condition(watch: Watch, site: str = "oslo") -> str:
    return next(each.condition for each in watch.look().hospitals if each.site == site)


def test_a_hospital_s_condition_follows_its_line_and_its_events(tmp_path: Path) -> None:
    folder = begin_run(tmp_path, "spleen")
    fleet = Lines(UP)
    watch = Watch(tmp_path, fleet)
    assert condition(watch) == "ready"
    record(folder, Joined(site="oslo", training=4), ArmStart(arm="fedavg", rounds=5))
    assert condition(watch) == "ready"
    record(folder, Failed(site="oslo", phase="train", round=1, reason="the disk is full"))
    assert condition(watch) == "troubled"
    record(folder, Answered(site="oslo", phase="evaluate", round=1, score=0.5))
    assert condition(watch) == "troubled"  # it scored, and still cannot train
    record(folder, Answered(site="oslo", phase="train", round=2, loss=0.5))
    assert condition(watch) == "ready"
    fleet.lines = (replace(UP, online=False),)
    assert condition(watch) == "gone"
    fleet.lines = ()
    record(folder, Left(site="oslo"))
    assert condition(watch) == "gone"
    record(folder, Refused(site="stranger", reason="its version is another one"))
    assert condition(watch, "stranger") == "refused"


def test_the_version_changes_with_what_is_shown_alone(tmp_path: Path) -> None:
    folder = begin_run(tmp_path, "spleen")
    fleet = Lines(UP)
    watch = Watch(tmp_path, fleet)
    first = watch.look().version
    fleet.lines = (replace(UP, heard=500.0),)  # a heartbeat is not news
    assert watch.look().version == first
    record(folder, Joined(site="oslo"))
    assert watch.look().version != first


def test_what_a_hospital_tells_of_its_machine_is_shown_as_words(tmp_path: Path) -> None:
    told = replace(
        UP, device="<b>H100</b>", memory_bytes=80 * 10**9, ahead_s=-95.0, received_bytes=5_000_000
    )
    silent = replace(UP, site="porto", ahead_s=0.2)
    with served(tmp_path, fleet=Lines(told, silent)) as page:
        page.watch.look()
        text = requests.get(f"{page.address}hospitals", timeout=5).text
        assert all(
            words in text
            for words in ("&lt;b&gt;H100&lt;/b&gt;", "80 GB", "1 min 35 s behind", "5 MB", "right")
        )
        assert "<b>" not in text
        assert "H100" not in requests.get(page.address, timeout=5).text  # room is for what is done


def test_a_run_whose_process_is_gone_has_died(tmp_path: Path) -> None:
    begin_run(tmp_path, "spleen", pid=2**22 + 1)
    assert [run.state for run in Watch(tmp_path).look().runs] == ["died"]


def test_a_damaged_run_is_named_and_harms_no_other(tmp_path: Path) -> None:
    begin_run(tmp_path, "sound")
    for name, content in (("a", "{"), ("b", "[]"), ("c", '{"state": 3}'), ("d", "\x00")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    states = {run.name: run.state for run in Watch(tmp_path).look().runs}
    assert states == {"sound": "running", **dict.fromkeys("abcd", "unreadable")}
    with served(tmp_path) as page:
        for path in ("", *(f"runs/{name}" for name in states)):
            assert requests.get(f"{page.address}{path}", timeout=5).status_code == 200


def test_lines_that_are_half_written_or_damaged_are_left_out(tmp_path: Path) -> None:
    folder = begin_run(tmp_path, "spleen")
    record(folder, Joined(site="oslo"))
    events = folder.path / "events.jsonl"
    with events.open("ab") as file:
        file.write(b'{"kind": "joined"\n\xff\xfe\n[]\n{"kind": "joined", "time": 1, "site": "por')
    following = Following(folder.path, EventLog())
    following.look(events=True)
    assert list(following.rows) == ["oslo"]
    with events.open("ab") as file:
        file.write(b'to"}\n')
    following.look(events=True)
    assert list(following.rows) == ["oslo", "porto"]


def test_little_is_kept_of_a_long_run(tmp_path: Path) -> None:
    folder = begin_run(tmp_path, "spleen", rounds=3000)
    following = Following(folder.path, EventLog())
    events = [RoundEnd(round=number, time=float(number)) for number in range(1, 3001)]
    lines = [event.model_dump_json() for event in events]
    start = ArmStart(arm="fedavg", rounds=3000, time=0.0).model_dump_json()
    (folder.path / "events.jsonl").write_text("\n".join([start, *lines]) + "\n")
    following.look(events=True)
    assert len(following.told) == MOST_LINES
    assert len(following.round_times) <= 6
    assert following.left_s() == 0


def test_the_time_that_is_left_follows_the_newest_rounds(tmp_path: Path) -> None:
    folder = begin_run(tmp_path, "spleen", rounds=10)
    times = [ArmStart(arm="fedavg", rounds=10, time=100.0)]
    ends = [RoundEnd(round=number, time=100.0 + 30.0 * number) for number in (1, 2, 3, 4)]
    lines = [event.model_dump_json() + "\n" for event in (*times, *ends)]
    (folder.path / "events.jsonl").write_text("".join(lines))
    following = Following(folder.path, EventLog())
    following.look(events=True)
    assert following.left_s() == pytest.approx(6 * 30.0)


def test_rounds_that_begin_again_count_once() -> None:
    series = Series()
    for number in (1, 2, 3):
        series.add(number, "oslo", float(number))
    series.forget_after(1)
    series.add(2, "oslo", 5.0)
    series.add(2, "lyon", 7.0)
    assert series.mean() == [(1, 1.0), (2, 6.0)]
    assert series.sites["oslo"] == {1: 1.0, 2: 5.0}


def test_prometheus_reads_the_figures(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    folder = begin_run(tmp_path, 'a"b\\c')
    record(
        folder,
        ArmStart(arm="fedavg", rounds=5),
        Joined(site='x"\\y'),
        Answered(site='x"\\y', phase="train", round=1, loss=0.25, arm="fedavg"),
    )
    watch = Watch(tmp_path, Lines(UP))
    families = {each.name: each for each in parser.text_string_to_metric_families(
        expose(watch.look())
    )}  # fmt: skip
    losses = families["polyclinic_loss"].samples
    assert [(each.labels["hospital"], each.value) for each in losses] == [('x"\\y', 0.25)]
    assert losses[0].labels["run"] == 'a"b\\c'
    running = {each.labels["state"]: each.value for each in families["polyclinic_runs"].samples}
    assert running["running"] == 1
    heard = families["polyclinic_hospital_heard_timestamp_seconds"].samples
    assert [each.value for each in heard] == [190.0]


class _Hook(BaseHTTPRequestHandler):
    bodies: list[bytes] = []  # noqa: RUF012
    answers: list[int] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.bodies.append(body)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def a_hook(*answers: int) -> Iterator[tuple[str, list[bytes]]]:
    _Hook.bodies, _Hook.answers = [], list(answers)
    with HTTPServer(("127.0.0.1", 0), _Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", _Hook.bodies
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_is_told_of_fault_and_end_and_tried_again(tmp_path: Path) -> None:
    good, bad = begin_run(tmp_path, "good"), begin_run(tmp_path, "bad")
    with a_hook(500, 503, 302) as (url, bodies):
        with Webhook(url, pauses_s=(0.05, 0.05, 0.05, 0.05)) as hook:
            watch = Watch(tmp_path, told=hook.tell)
            watch.look()
            good.end(None)
            bad.end(RuntimeError("no memory"))
            watch.look()
            watch.look()
        assert len(bodies) == 2  # each once, however often it was tried
        assert any(b'"end"' in body and b'"good"' in body for body in bodies)
        assert any(b'"fault"' in body and b"no memory" in body for body in bodies)
        assert hook.lost == 0


def test_a_webhook_that_never_answers_is_given_up(tmp_path: Path) -> None:
    folder = begin_run(tmp_path, "spleen")
    with a_hook(*[500] * 20) as (url, _bodies), Webhook(url, pauses_s=(0.02, 0.02)) as hook:
        watch = Watch(tmp_path, told=hook.tell)
        watch.look()
        folder.end(None)
        watch.look()
    assert hook.lost == 1
