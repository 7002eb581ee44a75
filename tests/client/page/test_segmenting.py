"""A scan is segmented from the page: what can be chosen, and whose result is whose."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests

from polyclinic.errors import ConfigError, DataError, PolyclinicError
from polyclinic_client.page import segmenting
from polyclinic_client.page.scan_task import DONE, SAYS, ScanTask, SegmentService, read_scan_task
from polyclinic_client.page.scans import Scan, find_scans
from polyclinic_client.page.segment_scan import segment_scan
from polyclinic_client.page.segmenting import SERVICE, Segmenting, name_result
from polyclinic_client.page.show import show_page
from polyclinic_client.sent.journal import FILE, Journal
from polyclinic_client.site.status import StatusFile
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import acquire
from tests.browser import Watched, browser
from tests.client.page.hospital import make_state
from tests.server.segmentation.segmentation_services import LABELS, a_model_for, service
from tests.strategies.proxy.test_protection import protecting

__all__ = ["browser"]  # the fixture
KEPT = Path(__file__).parents[2] / "compatibility" / "v0.1.0"
HOSTILE = "<img src=x onerror=window.taken=1>.nii.gz"
LONG_MS = 120_000  # a process loads torch, and others may work on this machine
SOON_S = 60.0


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of scans: a sound one and others."""
    inside = tmp_path / "scans" / "deep"
    inside.mkdir(parents=True)
    shutil.copy(KEPT / "images" / "scan.nii.gz", inside)
    (inside / HOSTILE).write_bytes(b"no image")
    return tmp_path / "scans"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    make_state(folder)
    shutil.copy(KEPT / "models" / "merged-mean.safetensors", folder / "refined.safetensors")
    return folder


def make_data_set(folder: Path) -> Path:
    """Write a data set of one case, beside which another image lies."""
    (folder / "imagesTs").mkdir(parents=True)
    for name in ("listed", "unlisted"):
        shutil.copy(KEPT / "images" / "scan.nii.gz", folder / "imagesTs" / f"{name}.nii.gz")
    described = {
        "name": "one",
        "modality": {"0": "MR"},
        "labels": {"0": "background", "1": "tumour"},
        "training": [],
        "test": ["./imagesTs/listed.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def no_progress(_parts: int) -> None:
    pass


def test_only_scans_in_the_named_folders_can_be_chosen(tmp_path: Path, scans: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.nii.gz").write_bytes(b"")
    (scans / "linked.nii.gz").symlink_to(outside / "secret.nii.gz")
    (scans / "folder").symlink_to(outside)
    (scans / "loop").symlink_to(scans)
    (scans / ".hidden.nii").write_bytes(b"")
    (scans / "words.txt").write_bytes(b"")
    (scans / "folder.nii").mkdir()
    data = make_data_set(tmp_path / "data")
    found = find_scans(data, [scans])
    assert {each.name for each in found.values() if each.folder == scans} == {
        "deep/scan.nii.gz",
        f"deep/{HOSTILE}",
    }
    assert len(found) == 2 + 1  # the case of the data set
    assert all(key == str(each.path) for key, each in found.items())
    assert len(find_scans(tmp_path / "nowhere", [tmp_path / "nowhere"])) == 0


def test_no_two_scans_or_models_share_a_result() -> None:
    ours = [Scan(Path(), "ct", Path(f"/scans/{name}/ct.nii.gz")) for name in ("a", "b")]
    models = ("runs/a/x/model.safetensors", "runs/b/x/model.safetensors")
    names = {name_result(scan, model) for scan in ours for model in models}
    assert len(names) == 4
    assert all(name.startswith("ct.") and name.endswith(".nii.gz") for name in names)


@pytest.mark.parametrize(
    ("scan", "model"),
    [
        ("/etc/passwd", "refined.safetensors"),
        ("../scans/deep/scan.nii.gz", "refined.safetensors"),
        ("", ""),
        ("SCAN", "../other.safetensors"),
        ("SCAN", SERVICE),  # none is configured
    ],
)
def test_nothing_else_is_segmented(state: Path, scans: Path, scan: str, model: str) -> None:
    one = Segmenting(state, None, [scans], None, lambda: None)
    path = str(scans.resolve() / "deep" / "scan.nii.gz") if scan == "SCAN" else scan
    with pytest.raises(ConfigError):
        one.start(path, model, ["refined.safetensors"])
    assert one.work is None


def test_a_label_map_lies_on_the_grid_of_its_scan(state: Path, tmp_path: Path) -> None:
    scan, target = KEPT / "images" / "scan.nii.gz", tmp_path / "made" / "labels.nii.gz"
    task = ScanTask(scan=scan, target=target, model=state / "refined.safetensors")
    parts: list[int] = []
    assert segment_scan(task, state, parts.append)[0] == "background"
    assert parts == list(range(1, len(parts) + 1))
    assert parts
    made, given = nib.load(target), nib.load(scan)
    assert made.shape == given.shape
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-4)
    drawn = segmenting.draw_result(scan, target)
    assert drawn.keys() == {"image", "result"}
    assert drawn["image"] != drawn["result"]


@pytest.mark.parametrize(
    ("scan", "model", "error"),
    [
        ("bad.nii.gz", "merged-mean", DataError),
        ("scan.nii.gz", "universal", ConfigError),
        ("scan.nii.gz", "none", PolyclinicError),
    ],
)
def test_what_cannot_be_segmented_is_a_typed_fault(
    tmp_path: Path, scan: str, model: str, error: type[Exception]
) -> None:
    shutil.copy(KEPT / "images" / "scan.nii.gz", tmp_path)
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    path = KEPT / "models" / f"{model}.safetensors"
    task = ScanTask(scan=tmp_path / scan, target=tmp_path / "out.nii.gz", model=path)
    with pytest.raises(error):
        segment_scan(task, tmp_path, no_progress)
    assert not task.target.exists()


def test_a_service_segments_what_it_never_sees(state: Path, tmp_path: Path) -> None:
    protection = protecting(labels=LABELS)
    protection.save(tmp_path / "generator.safetensors")
    scan = acquire(subject(1), replace(HOSPITALS[0], voxel_mm=(4.0, 4.0, 4.0)), seed=0)
    path = tmp_path / "Miller_Anna.nii.gz"
    nib.save(nib.Nifti1Image(scan.image.astype(np.float32), scan.affine), path)
    with service(model=a_model_for(protection)) as lab:
        asked = SegmentService(
            server=lab.address, generator=tmp_path / "generator.safetensors", insecure=True
        )
        task = ScanTask(scan=path, target=tmp_path / "out.nii.gz", service=asked)
        for _ in range(2):  # a result that is there is made anew
            assert segment_scan(task, state, no_progress) == tuple(LABELS)
    assert nib.load(task.target).shape == scan.label_map.shape
    kinds = [entry.kind for entry, _ in Journal(state / FILE).entries_from(0)]
    assert kinds.count("warped scan") == 2


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    task = ScanTask(
        scan=Path("a.nii"),
        target=Path("b.nii.gz"),
        service=SegmentService(server="a:1", generator=Path("g")),
    )
    task.write(tmp_path)
    assert read_scan_task(tmp_path) == task


@pytest.fixture
def one(state: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Segmenting]:
    """With a process in the true one's place, which does what its first argument's file says."""
    monkeypatch.setattr(segmenting, "python_module", lambda _module, folder: [
        "sh", "-c", '. "$0/do"', folder
    ])  # fmt: skip
    made = Segmenting(state, None, [scans], None, lambda: None)
    yield made
    made.stop()


def begin(one: Segmenting, script: str) -> None:
    (one.state / "do").write_text(script)
    path = str(one.folders[0].resolve() / "deep" / "scan.nii.gz")
    one.start(path, "refined.safetensors", ["refined.safetensors"])


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_scan_at_a_time_and_it_can_be_stopped(one: Segmenting) -> None:
    begin(one, "exec sleep 60")
    with pytest.raises(ConfigError, match="stop it"):
        begin(one, "exec sleep 60")
    one.stop()
    until(lambda: one.problem)
    assert not one.busy
    assert "stopped" in one.problem
    assert one.results == []


def test_a_process_that_dies_is_told(one: Segmenting) -> None:
    begin(one, "kill -9 $$")
    until(lambda: one.problem)
    assert "memory" in one.problem


def test_a_result_takes_the_place_of_its_forerunner(one: Segmenting) -> None:
    says = StatusFile(one.state / SAYS)
    for number in (1, 2):
        begin(one, 'until [ -e "$0/go" ]; do sleep 0.02; done; rm "$0/go"')
        says.write(DONE, {"labels": ["background", "\x1b[31mtumour"]}, force=True)
        (one.state / "go").touch()
        until(lambda: one.results and one.results[0].number == number)  # noqa: B023
    assert [each.number for each in one.results] == [2]
    assert one.results[0].labels[1].isprintable()
    assert one.picture(1, "image") is None
    assert one.picture(2, "secret") is None


def test_a_scan_is_segmented_in_a_browser(browser: Any, state: Path, scans: Path) -> None:
    said: list[str] = []
    with show_page("0", state, None, said.append, [scans]):
        address, _, token = said[0].removeprefix("page: ").partition("sign-in#")
        for path in ("segment", "segmented/1/image.png"):
            assert requests.get(f"{address}{path}", timeout=10).status_code == 401
        watched = Watched(browser, address)
        shown = watched.open(f"/sign-in#{token}")
        shown.wait_for_url(address)
        shown = watched.open("/segment")
        choose(shown, "scan.nii.gz")
        shown.wait_for_selector("text=was not segmented", state="detached")
        shown.wait_for_selector("#results img >> nth=1", timeout=LONG_MS)
        shown.wait_for_function(
            "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
        )
        assert "grey matter" in shown.inner_text("#results")
        choose(shown, HOSTILE)
        shown.wait_for_selector("text=was not segmented", timeout=LONG_MS)
        assert HOSTILE in shown.inner_text("#work")
        assert shown.evaluate("window.taken") is None
        for width in (400, 1400):
            shown.set_viewport_size({"width": width, "height": 900})
            assert watched.overflows() <= 0
        watched.close()
        assert watched.foreign == []
        assert watched.complaints == []


def choose(shown: Any, name: str) -> None:
    """Choose a scan and begin, with the keyboard alone."""
    shown.focus("#scan")
    number = shown.eval_on_selector_all(
        "#scan option", "(all, name) => all.findIndex(each => each.value.endsWith(name))", name
    )
    shown.keyboard.press("Home")
    for _ in range(number):
        shown.keyboard.press("ArrowDown")
    shown.keyboard.press("Tab")
    shown.keyboard.press("Tab")
    shown.keyboard.press("Enter")
