"""What a run's process is told, and what a service keeps of its runs."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from polyclinic.errors import ConfigError
from polyclinic_server.service.run_list import RunList, check_name
from polyclinic_server.service.task import RunTask


def task(*settings: str, security: str | None = "/srv/security") -> RunTask:
    asked = list(settings)
    return RunTask(
        runs="/srv/runs", name="x", settings=asked, resume=False, host="0.0.0.0", port=9092,
        security=security,
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("strategy=averaging/local,averaging/fedavg", "rounds=2"),  # several strategies
        ("deployment.port=9092", "deployment.security=/srv/security", "deployment.wait_s=1"),
        ("deployment.runs=elsewhere",),  # how the service was found
    ],
)
def test_a_run_may_say_what_is_the_services(settings: tuple[str, ...]) -> None:
    task(*settings).check_deployment()


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("deployment.port=9093", "port"),
        ("deployment.host=127.0.0.1", "host"),
        ("deployment.security=other", "security"),
        ("deployment.insecure=true", "insecure"),
    ],
)
def test_a_run_that_wants_another_place_or_other_keys_is_refused(setting: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"deployment.{name}="):
        task(setting).check_deployment()


def test_a_service_without_keys_gives_none_to_its_runs() -> None:
    assert "deployment.insecure=true" in task(security=None).deployment
    task("deployment.insecure=true", security=None).check_deployment()


def test_a_task_is_read_as_it_was_written_and_nothing_else() -> None:
    made = task("rounds=1")
    assert RunTask.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError):
        RunTask.model_validate_json('{"runs": "x"}')


def test_what_shall_go_on_is_kept_and_a_damaged_file_says_no_more_than_the_name(
    tmp_path: Path,
) -> None:
    fleet = tmp_path / "runs" / ".fleet"
    kept = RunList(fleet)
    for name, goes_on in (("a", True), ("b", False), ("c", True)):
        kept.keep(name, tmp_path, goes_on=goes_on)
    assert RunList(fleet).in_hand() == ["a", "c"]
    assert kept.folder_of("a") == kept.folder_of("b") == tmp_path
    (fleet / "runs" / "a.json").write_text("{")
    (fleet / "runs" / ".d.json").write_text("{}")
    assert kept.in_hand() == ["a", "c"] and kept.folder_of("a") == fleet.parent
    kept.keep("c", tmp_path / "gone", goes_on=True)
    assert kept.folder_of("c") == fleet.parent
    kept.forget("c")
    assert kept.in_hand() == ["a"]


@pytest.mark.parametrize("name", ["", "latest", ".x", "-x", "a/b", "..", "a b", "x" * 101, "a\n"])
def test_a_runs_name_is_no_path(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        check_name(name)


def test_a_runs_name_is_a_name() -> None:
    assert check_name("2026-01-01_brain.2") == "2026-01-01_brain.2"
