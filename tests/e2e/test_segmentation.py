"""The segmentation service as a process: what it says, who it serves, how it ends."""

import signal
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from polyclinic.system.processes import Child, free_port, python_module, wait_for_port
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import acquire
from polyclinic_demos.federation import ONE_THREAD
from polyclinic_demos.local_pki import kit_for, local_authority
from tests.processes import run_cli
from tests.server.segmentation.test_model import write_model
from tests.strategies.proxy.test_protection import protecting

pytestmark = pytest.mark.e2e
GREETING = (
    "80 x 96 x 80 voxels",
    "0 background, 1 CSF",
    "callers  st-mary",
    "polyclinic-client segment",
)
LABELS = ("background", "CSF", "grey matter", "white matter")


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Write a generator and a service's model that belong together."""
    protection = protecting()
    protection.save(folder / "generator.safetensors")
    proxy = {"shape": protection.shape, "digest": protection.digest}
    return folder / "generator.safetensors", write_model(folder / "proxy.safetensors", proxy)


def test_a_hospital_has_its_scans_segmented_and_the_service_ends_cleanly(tmp_path: Path) -> None:
    generator, model = write_pair(tmp_path)
    port = free_port()
    authority = local_authority(tmp_path / "security", port)
    kit = kit_for(authority, "st-mary")
    command = python_module(
        "polyclinic_server.cli.main",
        "segment-service",
        "--model",
        str(model),
        "--port",
        str(port),
        "--security",
        str(authority.folder),
        "--threads",
        "1",
    )
    child = Child("service", command, tmp_path / "service.log", ONE_THREAD)
    child.start()
    try:
        scan = acquire(subject(1), replace(HOSPITALS[0], voxel_mm=(4.0, 4.0, 4.0)), seed=0)
        (tmp_path / "scans").mkdir()
        for name in ("before", "after"):
            nib.save(
                nib.Nifti1Image(scan.image.astype(np.float32), scan.affine),
                tmp_path / "scans" / f"{name}.nii.gz",
            )
        wait_for_port(f"127.0.0.1:{port}", 60.0, child)
        options = {
            "--out": tmp_path / "out",
            "--kit": kit,
            "--generator": generator,
            "--preview": tmp_path / "pictures",
        }
        given = [str(word) for option in options.items() for word in option]
        asked = run_cli(
            "polyclinic_client.cli.main",
            "segment",
            str(tmp_path / "scans"),
            *given,
            "--server",
            f"127.0.0.1:{port}",
        )
        assert asked.returncode == 0, asked.stderr
        assert "2 of 2 images segmented" in asked.stderr and "3 white matter" in asked.stderr
        child.signal(signal.SIGTERM)
        assert child.wait(20.0) == 0, child.log.read_text()
    finally:
        child.stop()
    for name in ("before", "after"):
        labels = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert labels.shape == scan.label_map.shape and np.allclose(
            labels.affine, scan.affine, atol=1e-4
        )
        assert (tmp_path / "pictures" / f"{name}.png").exists()
    said = child.log.read_text()
    for words in (*GREETING, f"{port}, TLS", "st-mary: request 1", "OK", "stopped"):
        assert words in said, said
    assert not any(word in said for word in ("Traceback", "before", "after"))


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["--insecure", "--host", "0.0.0.0"], "only this machine is served", 2),
        (["--security", "nowhere"], "polyclinic-server init --host NAME", 2),
        (["--insecure", "--port", "0"], "not a readable safetensors file", 3),
    ],
)
def test_a_service_that_cannot_start_says_why(
    arguments: list[str], said: str, status: int, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no")
    ended = run_cli(
        "polyclinic_server.cli.main",
        "segment-service",
        "--model",
        str(tmp_path / "model.safetensors"),
        *arguments,
    )
    assert ended.returncode == status
    assert said in ended.stderr and "Traceback" not in ended.stderr


def test_the_client_says_what_is_missing(tmp_path: Path) -> None:
    wanted = ("segment", "scan.nii.gz", "--out", "labels.nii.gz")
    nothing = run_cli("polyclinic_client.cli.main", *wanted)
    assert nothing.returncode == 2 and "--kit FILE" in nothing.stderr
    wrong = run_cli(
        "polyclinic_client.cli.main",
        "segment",
        "scan.nii.gz",
        "--out",
        "x.nii.gz",
        "--insecure",
        "--server",
        "127.0.0.1:1",
        "--answer",
        "both",
    )
    assert wrong.returncode == 2 and "labels or probabilities" in wrong.stderr
