from pathlib import Path

from polyclinic.reporting.results import read_results
from polyclinic_server.reports.participation import find_absences, list_rounds
from tests.core.reporting.test_results import line, write_run


def test_who_took_part_and_who_was_missing(tmp_path: Path) -> None:
    lines = [
        line("fedavg", "a", "train", 1, loss=0.5),
        line("fedavg", "a", "train", 2, loss=0.4),
        line("fedavg", "b", "train", 1, missing="offline"),
        line("fedavg", "b", "train", 2, missing="offline"),
        line("fedbn", "a", "train", 1, loss=0.4),
    ]
    results = read_results(write_run(tmp_path, lines))
    assert list_rounds(results, results.arms[1]) == {
        "a": ("trained", "trained"),
        "b": ("missing", "missing"),
    }
    assert list_rounds(results, results.arms[2]) == {
        "a": ("trained", "pending"),
        "b": ("silent", "pending"),
    }
    (absence,) = find_absences(results)
    assert (absence.site, absence.arm.name, absence.rounds, absence.reason) == (
        "b",
        "fedavg",
        (1, 2),
        "offline",
    )


def test_a_hospital_that_answered_after_all_was_not_absent(tmp_path: Path) -> None:
    lines = [
        line("fedavg", "a", "train", missing="offline"),
        line("fedavg", "a", "train", loss=0.5),
    ]
    assert find_absences(read_results(write_run(tmp_path, lines))) == ()
