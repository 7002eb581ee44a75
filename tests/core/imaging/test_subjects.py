"""Who is who among cases."""

import os
from pathlib import Path

from polyclinic.imaging.datasets import Case
from polyclinic.imaging.subjects import count_subjects, number_subjects


def case(*files: Path, subject: str = "") -> Case:
    return Case(files[0].name, files, None, "training", subject)


def test_visits_of_a_patient_are_one_subject(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.nii.gz" for number in range(5)]
    subjects = ["a", "b", "a", "", ""]
    cases = [case(path, subject=name) for path, name in zip(paths, subjects, strict=True)]
    assert number_subjects(cases) == [0, 1, 0, 2, 3]
    assert count_subjects(cases) == 4


def test_a_file_that_is_listed_again_is_the_same_subject(tmp_path: Path) -> None:
    real, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    for path in (real, other):
        path.write_bytes(b"")
    (tmp_path / "link.nii.gz").symlink_to(real)
    os.link(real, tmp_path / "hard.nii.gz")
    again = [real, tmp_path / "." / "a.nii.gz", tmp_path / "link.nii.gz", tmp_path / "hard.nii.gz"]
    assert number_subjects([case(path) for path in [*again, other]]) == [0, 0, 0, 0, 1]
    assert count_subjects([case(real, subject="a"), case(real, subject="b")]) == 1


def test_what_two_cases_share_joins_those_that_share_with_either(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in "123")
    cases = [case(one), case(two, three), case(three, subject="a"), case(one, subject="a")]
    assert number_subjects(cases) == [0, 0, 0, 0]
    assert number_subjects([]) == []
