"""`segment` of a series: the proxy travels and nothing of the files; the label map comes back."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from polyclinic_client.cli.main import app
from polyclinic_client.dicom.labels.maps import read_labels
from polyclinic_client.dicom.mapping import Label
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.instances import read_instance
from polyclinic_client.sent.journal import FILE, Journal
from polyclinic_strategies.proxy.protection import Protection
from tests.client.dicom.simulated import CANARY, Phantom, make_slices, write
from tests.client.segmentation.proxies import Recorder, Rolling, Script, answer, scripted
from tests.server.segmentation.segmentation_services import LABELS, SHAPE, a_volume, expected

PHANTOM = Phantom(shape=(SHAPE[1], SHAPE[0], SHAPE[2]))
SHIFT = 24  # what the files' intercept takes off


def test_a_series_is_segmented_and_nothing_of_it_travels_but_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, protection, script = a_volume(), Rolling(), Script(answer)

    def drawn(one: Dataset, plane: int) -> None:
        one.PatientID = f"{CANARY}7"
        one.PixelData = (volume[:, :, plane].T.astype(np.int16) + SHIFT).tobytes()

    folder = write(tmp_path / "export", make_slices(PHANTOM, change=drawn))
    (series,) = find_series(folder).series
    assert series.stack is not None
    (tmp_path / "generator.safetensors").touch()
    monkeypatch.setattr(Protection, "load", lambda *_: protection)
    with scripted(script) as address:
        recorder = Recorder(address)
        try:
            words = ["segment", folder, "--server", recorder.address, "--insecure"]
            words += ["--generator", tmp_path / "generator.safetensors", "--answer", "labels"]
            words += ["--out", tmp_path / "out", "--state", tmp_path / "state"]
            done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        finally:
            recorder.close()
    assert done.exit_code == 0 and "1 of 1 images segmented" in done.output
    assert CANARY not in done.output

    uids = [series.first.study, series.first.series, *(each.uid for each in series.instances)]
    hidden = [CANARY, "19310203", "19990405", "Head 5.0", "SIEMENS", *uids, str(folder)]
    sent = bytes(recorder.sent)
    assert len(sent) > volume.size and not [each for each in hidden if each.encode() in sent]
    (request,) = script.requests
    assert set(request.metadata) <= {"user-agent"}

    written = nib.load(tmp_path / "out" / "export.nii.gz")
    assert (np.asanyarray(written.dataobj) == expected(volume)).all()
    np.testing.assert_allclose(written.affine, series.stack.grid.affine, atol=1e-3)
    seg = read_instance(tmp_path / "out" / "export.dcm")
    wanted = tuple(Label(name=name, match=(name,)) for name in LABELS[1:])
    again = read_labels([(seg, "seg")], wanted, series.stack.grid)
    assert (again.voxels == expected(volume)).all()
    (told,) = [
        each for each in Journal(tmp_path / "state" / FILE).entries() if each.kind == "warped scan"
    ]
    assert told.note == "moved around" and told.bytes > volume.size
