"""`polyclinic-server evaluate`: what is refused before any hospital is asked."""

from pathlib import Path

import pytest

from tests.server.cli.commands import Run
from tests.strategies.evaluation.written_models import TINY, write_model


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ((), 2, "model"),
        (("missing.safetensors",), 3, "missing.safetensors"),
        (("a.safetensors", "b.safetensors"), 2, "labels"),
        (("a.safetensors", "rounds=3"), 2, "rounds=3"),
        (("a.safetensors", "deployment.hospital=3"), 2, "hospital"),
        (("a.safetensors", "--resume", "latest"), 2, "resumes"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_a_line(
    run_cli: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "a.safetensors")
    write_model(tmp_path / "b.safetensors", *TINY, "data.labels=[background,other]")
    ended = run_cli("evaluate", *words, "--insecure")
    assert ended.returncode == code, ended.stderr
    assert named in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/run.json"))
