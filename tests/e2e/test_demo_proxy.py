"""Last part of the proxy's demo: service and client as processes, with files of a training."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.errors import RunError
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.scanner import acquire
from polyclinic_demos.cohorts.visits import T1
from polyclinic_demos.proxy import ask_service
from polyclinic_strategies.proxy.parts import GENERATOR, write_parts

pytestmark = pytest.mark.e2e
SETTINGS = (
    "model.spacing_mm=4.0",
    "model.channels=[4,4,4]",
    "model.segmenter.channels=[4,8]",
    "model.segmenter.strides=[2]",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Write a generator and a segmenter that nobody trained, but which moves a scan, and a scan."""
    folder = tmp_path_factory.mktemp("demo")
    config = load_config(["model=proxy", "data=proxy_brain", "training=proxy", *SETTINGS])
    torch.manual_seed(0)
    system = instantiate(config.model)
    torch.nn.init.normal_(system.field.network.head.weight, std=0.2)
    write_parts(system, config.data.labels, job_settings(config)[1], folder / "proxy")
    scan = acquire(subject(1), replace(T1, voxel_mm=(4.0, 4.0, 4.0)), seed=0)
    nib.save(nib.Nifti1Image(scan.image, scan.affine), folder / "scan.nii.gz")
    yield folder / "proxy", folder / "scan.nii.gz"


def test_a_scan_is_segmented_through_the_service_again_and_again(
    written: tuple[Path, Path], tmp_path: Path
) -> None:
    out, scan = written
    console = Console(file=io.StringIO(), width=300)
    for _ in range(2):
        ask_service(out, [scan], tmp_path, console)
        labels = nib.load(tmp_path / "labels" / "scan.nii.gz")
        assert labels.shape == nib.load(scan).shape and np.allclose(
            labels.affine, nib.load(scan).affine, atol=1e-4
        )
        assert (tmp_path / "previews" / "scan.png").stat().st_size > 1000
        (tmp_path / "labels" / "scan.nii.gz").unlink()
    assert "1 scans segmented through a service" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_log_of_who_failed_is_named(written: tuple[Path, Path], tmp_path: Path) -> None:
    out, scan = written
    with pytest.raises(RunError, match=r"client\.log"):
        ask_service(out, [scan.with_name("nowhere.nii.gz")], tmp_path, Console(file=io.StringIO()))
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / GENERATOR).write_bytes((out / GENERATOR).read_bytes())
    with pytest.raises(RunError, match="segmentation service"):
        ask_service(tmp_path / "proxy", [scan], tmp_path / "again", Console(file=io.StringIO()))
