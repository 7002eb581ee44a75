"""People who come more than once.

What is taken up again, what is refused, and that a person stays that person.
"""

import gzip
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pytest

from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import read_dataset
from polyclinic_demos.cohorts import visits, writing
from polyclinic_demos.cohorts.visits import T1, T1_ELSEWHERE, Visits, write_visits

COARSE = replace(T1, voxel_mm=(6.0, 6.0, 6.0))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.nii.gz"))
    return {
        str(path.relative_to(folder)): sha256(gzip.decompress(path.read_bytes())).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person each to train, to validate and to test with; two visits of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_WORTH_A_PROCESS", 6)  # here, without processes
        return write_visits(
            tmp_path_factory.mktemp("home") / "visits", COARSE, Visits((1, 1, 1)), seed=3
        )


def test_every_case_names_its_person_and_nobody_is_in_two_splits(cohort: Path) -> None:
    site = read_dataset(cohort)
    people = [
        {case.subject for case in split} for split in (site.training, site.validation, site.test)
    ]
    assert people == [{"000"}, {"001"}, {"002"}]
    assert [case.name for case in site.cases] == [
        "000_0",
        "000_1",
        "001_0",
        "001_1",
        "002_0",
        "002_1",
    ]
    for case in site.cases:
        image, label = nibabel.load(case.image[0]), nibabel.load(case.label)
        assert image.shape == label.shape and np.allclose(image.affine, label.affine)
        assert set(np.unique(label.dataobj)) == {0, 1, 2, 3}
    assert len(set(digests(cohort).values())) == 12


def test_same_seed_same_voxels_other_seed_others(cohort: Path, tmp_path: Path) -> None:
    # by processes, with another number of threads
    write_visits(tmp_path / "again", COARSE, Visits((1, 1, 1)), seed=3)
    assert digests(tmp_path / "again") == digests(cohort)
    write_visits(tmp_path / "other", COARSE, Visits((1, 0, 0), visits=1), seed=4)
    assert not set(digests(tmp_path / "other").values()) & set(digests(cohort).values())


def test_one_more_visit_and_fewer_people_change_no_scan(cohort: Path, tmp_path: Path) -> None:
    write_visits(tmp_path / "more", COARSE, Visits((1, 0, 0), visits=3), seed=3)
    found = digests(tmp_path / "more")
    assert len(found) == 6
    kept = {name: digest for name, digest in digests(cohort).items() if "000_" in name}
    assert len(kept) == 4 and {name: found[name] for name in kept} == kept


def test_what_was_interrupted_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    made, heard = [], []
    real = visits.write_scans
    monkeypatch.setattr(visits, "write_scans", lambda orders: real(made.extend(orders) or orders))
    folder, who = tmp_path / "visits", Visits((1, 0, 0), visits=3)
    with pytest.raises(KeyboardInterrupt):
        write_visits(folder, COARSE, who, on_progress=interrupted)
    assert len(list(folder.rglob("*.nii.gz"))) == 4 and not (folder / "dataset.json").exists()
    made.clear()
    write_visits(folder, COARSE, who, on_progress=lambda *news: heard.append(news))
    assert [order.stem for order in made] == ["000_2"] and heard == [(3, 3)]
    assert len(json.loads((folder / "dataset.json").read_text())["training"]) == 3
    made.clear()
    write_visits(folder, COARSE, who)
    assert made == []


@pytest.mark.parametrize(
    ("scanner", "who", "seed"),
    [
        (COARSE, Visits((1, 1, 1)), 4),
        (COARSE, Visits((1, 1, 2)), 3),
        (COARSE, Visits((1, 1, 1), visits=3), 3),
        (COARSE, Visits((1, 1, 1), lesions=1), 3),
        (replace(T1_ELSEWHERE, voxel_mm=(6.0, 6.0, 6.0)), Visits((1, 1, 1)), 3),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(
    cohort: Path, scanner, who: Visits, seed: int
) -> None:  # type: ignore[no-untyped-def]
    before = digests(cohort)
    with pytest.raises(ConfigError, match="other settings"):
        write_visits(cohort, scanner, who, seed)
    assert digests(cohort) == before


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a hospital's own")
    with pytest.raises(ConfigError, match="another folder"):
        write_visits(tmp_path, COARSE, Visits((1, 0, 0)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "numbers",
    [
        {"subjects": (0, 0, 0)},
        {"subjects": (1, -1, 0)},
        {"visits": 0},
        {"lesions": -1},
        {"people": (Path("a"), Path("b"))},
    ],
)
def test_impossible_numbers_are_refused(numbers: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=r"at least one|one for each"):
        Visits(**{"subjects": (1, 0, 0), **numbers})
