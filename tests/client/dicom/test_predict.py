"""A model on a series: the label map of its NIfTI file, voxel by voxel, and a DICOM SEG."""

import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError
from polyclinic_client.cli.main import app
from polyclinic_client.dicom.errors import SeriesRefused
from polyclinic_client.dicom.labels.maps import read_labels
from polyclinic_client.dicom.mapping import Label
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.instances import read_instance
from polyclinic_client.dicom.reading.volumes import read_volume, write_volume
from polyclinic_client.site import predict as module
from tests.client.dicom.orthanc import MISSING, REASON, fill, pacs
from tests.client.dicom.reference import PROGRAM, needs_reference
from tests.client.dicom.simulated import CANARY, Phantom, make_slices, rotation, write
from tests.client.site.test_predict import Weighted
from tests.core.imaging.test_datasets import DATA, TRAINING

PHANTOM = Phantom(shape=(16, 14, 12), spacing=(2.0, 2.0, 2.0), orientation=rotation(23.0))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a file that stands for a network: class 1 where the value is above 900.37."""
    path = tmp_path / "model.safetensors"
    path.write_text("a network")
    data = replace(DATA, channels=1, intensity=(), labels=("background", "liver"))
    job = JobConfig({}, data, TRAINING)
    monkeypatch.setattr(module, "load_model", lambda _: (Weighted(900.37).eval(), job))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return path


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write(tmp_path / "series7", make_slices(PHANTOM))


def call(model: Path, *words: str | Path) -> str:
    done = CliRunner().invoke(
        app, ["predict", str(model), *map(str, words)], catch_exceptions=False
    )
    assert done.exit_code == 0
    return done.output


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_nifti_and_dicom_of_one_volume_give_one_label_map(
    model: Path, series: Path, tmp_path: Path
) -> None:
    (found,) = find_series(series).series
    write_volume(tmp_path / "same.nii.gz", read_volume(found, "series"))
    said = call(model, series, tmp_path / "same.nii.gz", "--out", tmp_path / "out")
    mine, same = (voxels(tmp_path / "out" / f"{n}.nii.gz") for n in ("series7", "same"))
    assert (mine == same).all() and 0 < mine.sum() < mine.size
    assert found.stack is not None and CANARY not in said
    seg = read_instance(tmp_path / "out" / "series7.dcm")
    again = read_labels([(seg, "seg")], (Label(name="liver", match=("liver",)),), found.stack.grid)
    assert (again.voxels == mine).all()
    assert not (tmp_path / "out" / "same.dcm").exists()
    assert "left alone" in call(model, series, "--out", tmp_path / "out")


@needs_reference
def test_dcm2niixs_file_gives_the_same_label_map(model: Path, series: Path, tmp_path: Path) -> None:
    command = [str(PROGRAM), "-z", "n", "-b", "n", "-f", "theirs", "-o", str(tmp_path)]
    subprocess.run([*command, str(series)], stdout=subprocess.PIPE, check=True)
    call(model, series, tmp_path / "theirs.nii", "--out", tmp_path / "out")
    mine, other = (nib.load(tmp_path / "out" / f"{n}.nii.gz") for n in ("series7", "theirs"))
    step = np.rint(np.linalg.inv(other.affine) @ mine.affine)
    places = np.indices(mine.shape).reshape(3, -1)
    x, y, z = (step[:3, :3] @ places + step[:3, 3:]).astype(int)
    assert (np.asanyarray(other.dataobj)[x, y, z] == np.asanyarray(mine.dataobj).ravel()).all()


def test_a_series_that_is_no_volume_is_refused_and_others_are_done(
    model: Path, series: Path, tmp_path: Path
) -> None:
    images = make_slices(PHANTOM)
    bad = write(tmp_path / "bad", images[:4] + images[5:])
    with pytest.raises(SeriesRefused, match="1 slice"):
        call(model, series, bad, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "series7.dcm").exists()
    with pytest.raises(SeriesRefused, match="1 slice"):
        call(model, bad, "--out", tmp_path / "out")
    (tmp_path / "all.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    with pytest.raises(SeriesRefused, match="Unpack"):
        call(model, tmp_path / "all.zip", "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match="need a PACS"):
        call(model, series, "--store", "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match="Name images"):
        call(model, "--out", tmp_path / "out")


@pytest.mark.skipif(MISSING, reason=REASON)
def test_a_series_of_a_pacs_gets_its_segmentation_back(
    model: Path, series: Path, tmp_path: Path
) -> None:
    (found,) = find_series(series).series
    with pacs(tmp_path / "orthanc") as url:
        fill(url, series)
        which = f"{found.first.study}/{found.first.series}"
        words = ("--pacs", url, "--series", which, "--out", tmp_path / "out", "--store")
        said = call(model, *words)
        assert said.count("stored in the PACS") == 1 and CANARY not in said
        assert "stored in the PACS" not in call(model, *words)
        from polyclinic_client.dicom.pacs import Pacs

        modalities = [each.modality for each in Pacs(url).list_series(found.first.study)]
        assert sorted(modalities) == ["CT", "SEG"]
    (seg,) = (tmp_path / "out").glob("*.dcm")
    assert found.first.series not in seg.name
