import gzip
import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from polyclinic.errors import ConfigError, DiskFull
from polyclinic_demos.cohorts import hospitals
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort

COARSE = tuple(replace(scanner, voxel_mm=(5.0, 5.0, 5.0)) for scanner in HOSPITALS)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.nii.gz"))
    return {
        str(path.relative_to(folder)): sha256(gzip.decompress(path.read_bytes())).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, sites=1, subjects=(1, 1, 1), scanners=COARSE)
    return folder


def test_six_hospitals_store_six_orientations_under_six_names() -> None:
    assert (
        len({scanner.name for scanner in HOSPITALS})
        == len({scanner.orientation for scanner in HOSPITALS})
        == 6
    )


def test_a_hospital_is_as_monai_expects_it(cohort: Path) -> None:
    site = cohort / "mprage-3t"
    dataset = json.loads((site / "dataset.json").read_text())
    assert dataset["modality"] == {"0": "T1"}
    assert dataset["labels"]["3"] == "white matter"
    for split in ("training", "validation", "test"):
        (entry,) = load_decathlon_datalist(
            str(site / "dataset.json"), is_segmentation=True, data_list_key=split
        )
        image, label = nibabel.load(entry["image"]), nibabel.load(entry["label"])
        assert image.shape == label.shape
        assert np.allclose(image.affine, label.affine)
        assert image.get_data_dtype() == np.int16
        assert set(np.unique(label.dataobj)) == {0, 1, 2, 3}
        assert Path(entry["image"]).parent.name == ("imagesTs" if split == "test" else "imagesTr")
    assert not list(cohort.rglob("*.partial"))


def test_scans_differ_between_splits(cohort: Path) -> None:
    digests = _digests(cohort)
    assert len(digests) == len(set(digests.values())) == 6


def test_same_seed_same_voxels_other_seed_others(cohort: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "again", sites=1, subjects=(1, 1, 1), scanners=COARSE)
    write_cohort(tmp_path / "other", sites=1, subjects=(1, 0, 0), scanners=COARSE, seed=1)
    assert _digests(tmp_path / "again") == _digests(cohort)
    assert not set(_digests(tmp_path / "other").values()) & set(_digests(cohort).values())


def test_processes_write_the_same_voxels_and_report_each_scan(cohort: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    sites = write_cohort(
        tmp_path,
        sites=2,
        subjects=(1, 1, 1),
        scanners=COARSE,
        on_progress=lambda *news: seen.append(news),
    )
    assert sites == [tmp_path / "mprage-3t", tmp_path / "spgr-1.5t"]
    assert [(done, total) for done, total, _ in seen] == [(n, 6) for n in range(1, 7)]
    digests = _digests(tmp_path)
    assert len(set(digests.values())) == 12
    assert {name: digests[name] for name in _digests(cohort)} == _digests(cohort)


def test_complete_hospitals_are_reused_and_others_made(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = hospitals.write_scans

    def counted(orders, processes=1):  # type: ignore[no-untyped-def]
        made.extend(order.stem for order in orders)
        return real(orders, processes)

    monkeypatch.setattr(hospitals, "write_scans", counted)
    few = {"scanners": COARSE, "subjects": (1, 0, 0)}
    write_cohort(tmp_path, sites=1, **few)
    write_cohort(tmp_path, sites=1, **few)
    assert made == ["mprage-3t_001"]
    write_cohort(tmp_path, sites=2, **few)
    assert made == ["mprage-3t_001", "spgr-1.5t_001"]
    write_cohort(tmp_path, sites=1, **few, seed=5)
    assert made[2:] == ["mprage-3t_001"]


def test_an_interrupted_hospital_looks_incomplete_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    settings = {"sites": 1, "subjects": (2, 0, 0), "scanners": COARSE}
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path, on_progress=interrupted, **settings)
    assert not (tmp_path / "mprage-3t" / "dataset.json").exists()
    write_cohort(tmp_path, **settings)
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 4


def test_fewer_subjects_leave_no_stale_files(tmp_path: Path) -> None:
    write_cohort(tmp_path, sites=1, subjects=(2, 0, 0), scanners=COARSE)
    write_cohort(tmp_path, sites=1, subjects=(1, 0, 0), scanners=COARSE)
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 2


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mprage-3t").mkdir()
    (tmp_path / "mprage-3t" / "dataset.json").write_text("a hospital's own")
    with pytest.raises(ConfigError, match="another folder"):
        write_cohort(tmp_path, sites=1, scanners=COARSE)
    assert (tmp_path / "mprage-3t" / "dataset.json").read_text() == "a hospital's own"


@pytest.mark.parametrize("sites", [0, 7, -1])
def test_impossible_numbers_of_hospitals_are_refused(tmp_path: Path, sites: int) -> None:
    with pytest.raises(ConfigError, match="1 to 6 hospitals"):
        write_cohort(tmp_path, sites=sites)


def test_no_training_subject_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training at least 1"):
        write_cohort(tmp_path, subjects=(0, 1, 1))


def test_too_little_room_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hospitals, "_BYTES_PER_SCAN", 2**60)
    with pytest.raises(DiskFull, match="MiB"):
        write_cohort(tmp_path, sites=1, scanners=COARSE)


def test_real_anatomies_need_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYCLINIC_DATA", raising=False)
    with pytest.raises(ConfigError, match="POLYCLINIC_DATA"):
        write_cohort(tmp_path, anatomy="real")
    monkeypatch.setenv("POLYCLINIC_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="0 label maps"):
        write_cohort(tmp_path, anatomy="real")


@pytest.mark.parametrize("sites", [1, 4, 6])
def test_no_real_person_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sites: int
) -> None:
    (tmp_path / "brain_label_maps").mkdir()
    for number in range(16):
        (tmp_path / "brain_label_maps" / f"training_seg_{number:02d}.nii.gz").touch()
    monkeypatch.setenv("POLYCLINIC_DATA", str(tmp_path))
    dealt = hospitals._real_people(sites, seed=0)
    assert len({person for hand in dealt for person in hand}) == sum(map(len, dealt)) == 16
    for hand in dealt:
        training, validation, test = hospitals._pools(hand, (4, 1, 2))
        assert training and validation and test
        assert not set(test) & {*training, *validation}
        assert len(hand) == 2 or not set(training) & set(validation)


@pytest.mark.skipif(
    "POLYCLINIC_DATA" not in os.environ, reason="POLYCLINIC_DATA is unset: no real anatomies here"
)
def test_real_anatomies_are_written(tmp_path: Path) -> None:
    (site,) = write_cohort(tmp_path, sites=1, subjects=(1, 0, 1), scanners=COARSE, anatomy="real")
    labels = [
        np.asarray(nibabel.load(path).dataobj) for path in sorted(site.rglob("labelsT*/*.nii.gz"))
    ]
    assert len(labels) == 2
    assert all(set(np.unique(label)) == {0, 1, 2, 3} for label in labels)
