"""What is measured of files: by hand, in any order of axes, each patient once, never of too few."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from polyclinic.config.compose import load_data
from polyclinic.config.overrides import write_override
from polyclinic.config.release import Release
from polyclinic.errors import ConfigError, DatasetInvalid, TooFewSubjects
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.headers import spacing_of
from polyclinic.imaging.volumes import read_image
from polyclinic_strategies.planning.cohort import combine
from polyclinic_strategies.planning.fingerprint import Fingerprint, shapes, take_fingerprint
from tests.strategies.planning.folders import LABELS, Case, write_pictures, write_site

DATA = load_data([f"data.labels=[{','.join(LABELS)}]", "data=segmentation"])
ANYBODY = Release(min_subjects=1)


def take(folder: Path, release: Release = ANYBODY, channels: int = 1) -> Fingerprint:
    data = DATA if channels == 1 else load_data(["data=segmentation", f"data.channels={channels}"])
    return take_fingerprint(read_dataset(folder), data, release)


def test_a_case_is_measured_by_hand(tmp_path: Path) -> None:
    found = take(write_site(tmp_path / "a", [Case()]))
    cohort = combine({"a": found})
    assert found.subjects == 1
    assert {name: each.shape for name, each in found.parts.items()} == shapes(1, 3)
    assert cohort.spacing_mm() == (1.0, 1.0, 2.0)
    assert cohort.shape() == (10, 14, 9)  # of 12, two are 0
    assert cohort.extent_mm() == (10.0, 14.0, 18.0)
    assert cohort.box_share == pytest.approx(10 / 12)
    assert found.parts["classes"].tolist() == pytest.approx([9 / 12, 2 / 12, 1 / 12])
    low, high, mean, deviation = cohort.intensities()[0] or (0.0,) * 4
    assert (low, high, mean) == pytest.approx((100.0,) * 3, rel=0.02) and deviation == 0
    assert not cohort.are_pictures


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_axes_are_those_of_the_patient_not_of_the_file(
    tmp_path: Path, order: tuple[int, int, int]
) -> None:
    found = combine({"a": take(write_site(tmp_path / "a", [Case(order=order)]))})
    assert found.spacing_mm() == (1.0, 1.0, 2.0) and found.shape() == (10, 14, 9)


def test_a_patient_counts_once_however_many_visits(tmp_path: Path) -> None:
    visits = [Case(value=10.0, subject="p")] * 3 + [Case(value=1000.0)]
    found = take(write_site(tmp_path / "a", visits))
    assert found.subjects == 2
    histogram = found.parts["intensity"][0]
    assert sorted(histogram[histogram > 0].tolist()) == pytest.approx([0.5, 0.5])


def test_channels_are_measured_apart_and_in_order(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "a", [Case()], ("T1", "FLAIR"))
    data = load_data(["data=segmentation", "data.channels=2", f"data.labels=[{','.join(LABELS)}]"])
    found = take_fingerprint(read_dataset(folder), data, ANYBODY)
    assert found.parts["intensity"].shape[0] == 2


def test_too_few_patients_are_not_measured_and_no_file_is_read(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "a", [Case(subject="p")] * 3 + [Case(subject="q")])
    for path in folder.glob("*.nii.gz"):
        path.write_bytes(b"no image")
    with pytest.raises(TooFewSubjects, match="2 subjects"):
        take(folder, Release(min_subjects=3))


def test_noise_that_is_demanded_is_not_left_out(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "a", [Case()] * 3)
    with pytest.raises(ConfigError, match="noise"):
        take(folder, Release(min_subjects=1, noise_multiplier=0.1))


def test_pictures_have_no_voxel_size(tmp_path: Path) -> None:
    found = combine({"a": take(write_pictures(tmp_path / "a", 4))})
    assert found.are_pictures and found.shape() == (40, 30, 1)
    assert found.spacing_mm() == (1.0, 1.0, 1.0)


def test_a_case_without_a_label_map_is_refused(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "a", [Case()])
    described = json.loads((folder / "dataset.json").read_text())
    described["training"][0]["label"] = 1
    described["validation"][0]["label"] = 1
    (folder / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(DatasetInvalid, match="label map"):
        take(folder)


def test_random_cohorts_of_files_are_within_a_bin_of_pooled_figures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    found, cases = {}, []
    for site in range(3):
        mine = [
            Case(
                tuple(int(size) for size in generator.integers(6, 24, 3)),  # type: ignore[arg-type]
                tuple(round(float(each), 3) for each in generator.uniform(0.4, 4, 3)),  # type: ignore[arg-type]
            )
            for _ in range(int(generator.integers(1, 6)))
        ]
        found[f"h{site}"] = take(write_site(tmp_path / f"h{site}", mine))
        cases += mine
    cohort = combine(found)
    assert cohort.patients == len(cases)
    spacing = np.array([case.spacing_mm for case in cases])
    shape = np.array([case.shape for case in cases]) - [2, 0, 0]
    for share in (0.1, 0.5):
        wanted = np.percentile(spacing, 100 * share, axis=0, method="inverted_cdf")
        assert np.allclose(cohort.spacing_mm(share), wanted, rtol=0.0101)
    assert cohort.shape() == tuple(np.percentile(shape, 50, axis=0, method="inverted_cdf"))
    extent = np.percentile(shape * spacing, 50, axis=0, method="inverted_cdf")
    assert np.allclose(cohort.extent_mm(), extent, rtol=0.0101)


@pytest.mark.skipif(
    "POLYCLINIC_DATA" not in os.environ, reason="POLYCLINIC_DATA is unset: no real images here"
)
def test_real_hospitals_are_within_a_bin_of_pooled_figures() -> None:
    folder = Path(os.environ["POLYCLINIC_DATA"]) / "lgg_mri"
    found, shape, extent, spacing, values = {}, [], [], [], []
    for site in ("cs", "fg"):
        dataset = read_dataset(folder / site)
        data = load_data(["data=segmentation", *_described(dataset.labels, dataset.modality)])
        found[site] = take_fingerprint(dataset, data, ANYBODY)
        for case in dataset.training:
            image = read_image(case.image, len(dataset.modality), 2)
            lit = np.argwhere((image.numpy() != 0).any(0))
            shape.append(lit.max(0) - lit.min(0) + 1)
            spacing.append(spacing_of(image.affine.numpy()))
            extent.append(shape[-1] * spacing[-1])
            values.append(len(lit))
    cohort = combine(found)
    assert cohort.patients == len(values)
    for got, rows in (
        (cohort.spacing_mm(), spacing),
        (cohort.shape(), shape),
        (cohort.extent_mm(), extent),
    ):
        # files lie in any order of axes: compare sorted
        wanted = np.percentile(np.array(rows), 50, axis=0, method="inverted_cdf")
        assert np.allclose(sorted(got), sorted(wanted), rtol=0.0101)


def _described(labels: tuple[str, ...], modality: tuple[str, ...]) -> list[str]:
    return [
        write_override("data.labels", list(labels)),
        f"data.channels={len(modality)}",
        write_override("data.modality", list(modality)),
    ]
