"""The segmentation service as a process: what it says, who it serves, how it ends."""

import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from client.segmentation_options import service_connection
from client.segmentation_proxy import Job, segment_files
from polyclinic.processes import Child, free_port, python_module, wait_for_port
from server.rehearsal import kit_for, rehearse
from tests.client.proxies import Rolling
from tests.e2e.federation import ENVIRONMENT, run_cli
from tests.server.segmentation_services import SHAPE, a_volume
from tests.server.test_segmentation_model import write_model

pytestmark = pytest.mark.e2e
GREETING = ("16 x 24 x 16 voxels", "0 background, 1 CSF", "callers  st-mary", "polyclinic-client segment")
LABELS = ("background", "CSF", "grey matter", "white matter")


def test_a_service_says_what_it_is_segments_and_ends_cleanly(tmp_path: Path) -> None:
    model = write_model(tmp_path / "proxy.safetensors")
    port = free_port()
    authority = rehearse(tmp_path / "security", port)
    kit = kit_for(authority, "st-mary")
    command = python_module(
        "server.cli", "segment-service", "--model", str(model), "--port", str(port), "--security", str(authority.folder), "--threads", "1"
    )
    child = Child("service", command, tmp_path / "service.log", ENVIRONMENT)
    child.start()
    try:
        wait_for_port(f"127.0.0.1:{port}", 60.0, child)
        nib.save(nib.Nifti1Image(a_volume(), np.diag([2.0, 3.0, 2.0, 1.0])), tmp_path / "scan.nii.gz")
        job = Job(tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz", None)
        connection = service_connection(f"127.0.0.1:{port}", kit, None, insecure=False)
        segment_files([job], connection, Rolling(labels=LABELS, digest="d" * 64), "probabilities", 1, 30.0, Console(quiet=True))
        assert nib.load(job.target).shape == SHAPE
        child.signal(signal.SIGTERM)
        assert child.wait(20.0) == 0, child.log.read_text()
    finally:
        child.stop()
    said = child.log.read_text()
    for words in (*GREETING, f"{port}, TLS", "st-mary: request 1", "OK", "stopped"):
        assert words in said, said
    assert "Traceback" not in said and "scan" not in said.replace("segment IMAGE", "")


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["--insecure", "--host", "0.0.0.0"], "only this machine is served", 2),
        (["--security", "nowhere"], "polyclinic-server init --host NAME", 2),
        (["--insecure", "--port", "0"], "not a readable safetensors file", 3),
    ],
)
def test_a_service_that_cannot_start_says_why(arguments: list[str], said: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no")
    ended = run_cli("server.cli", "segment-service", "--model", str(tmp_path / "model.safetensors"), *arguments)
    assert ended.returncode == status
    assert said in ended.stderr and "Traceback" not in ended.stderr


def test_the_client_says_what_is_missing(tmp_path: Path) -> None:
    wanted = ("segment", "scan.nii.gz", "--out", "labels.nii.gz")
    nothing = run_cli("client.cli", *wanted)
    assert nothing.returncode == 2 and "--kit FILE" in nothing.stderr
    wrong = run_cli(
        "client.cli", "segment", "scan.nii.gz", "--out", "x.nii.gz", "--insecure", "--server", "127.0.0.1:1", "--answer", "both"
    )
    assert wrong.returncode == 2 and "labels or probabilities" in wrong.stderr
