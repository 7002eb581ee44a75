"""Bad input at the command line: one clear sentence with the remedy, a meaningful exit code, never a traceback."""

import gzip
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from polyclinic.system.processes import free_port
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from tests.e2e.federation import run_cli


@pytest.fixture
def site(tmp_path: Path) -> Path:
    coarse = [replace(HOSPITALS[0], voxel_mm=(10.0, 10.0, 10.0))]
    return write_cohort(tmp_path / "cohort", sites=1, subjects=(1, 1, 1), scanners=coarse)[0]


def first(site: Path, kind: str) -> Path:
    return site / json.loads((site / "dataset.json").read_text())["training"][0][kind]


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    voxels = change(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


def with_nan(voxels: np.ndarray) -> np.ndarray:
    voxels = voxels.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    return voxels


def claim_100_gb(path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((3000, 3000, 3000))
    header["vox_offset"] = 352
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 1000))


def empty_split(site: Path) -> None:
    described = json.loads((site / "dataset.json").read_text())
    (site / "dataset.json").write_text(json.dumps({**described, "training": []}))


BAD = {
    "a missing file": (lambda site: first(site, "image").unlink(), "does not exist"),
    "no image at all": (
        lambda site: first(site, "image").write_bytes(b"hello"),
        "cannot be read as an image",
    ),
    "NaN voxels": (
        lambda site: rewrite(first(site, "image"), with_nan),
        "NaN or infinite values in 1 of",
    ),
    "an undeclared label": (
        lambda site: rewrite(
            first(site, "label"), lambda v: np.where(v == 3, 9, v).astype(np.uint8)
        ),
        "has label 9",
    ),
    "other shapes": (lambda site: rewrite(first(site, "label"), lambda v: v[:-1]), "its grid is"),
    "an empty split": (empty_split, "'training' is empty"),
    "a header that claims 100 GB": (
        lambda site: claim_100_gb(first(site, "image")),
        "its header claims 100",
    ),
    "broken JSON": (lambda site: (site / "dataset.json").write_text("{"), "dataset.json"),
}


@pytest.mark.parametrize("what", BAD)
def test_check_says_what_is_wrong_with_a_data_set(what: str, site: Path) -> None:
    spoil, said = BAD[what]
    spoil(site)
    checked = run_cli("polyclinic_client.cli.main", "check", "--data", str(site))
    assert checked.returncode == 3
    assert said in checked.stderr
    assert said in checked.stdout  # where the list of what was looked at shows it
    assert "Traceback" not in checked.stdout + checked.stderr
    assert checked.stderr.count("\n") == 1


def test_check_finds_nothing_wrong_with_a_sound_data_set(site: Path, tmp_path: Path) -> None:
    checked = run_cli(
        "polyclinic_client.cli.main", "check", "--data", str(site), "--state", str(tmp_path)
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("ok") == 4


def test_join_refuses_a_faulty_data_set_before_it_dials(site: Path) -> None:
    first(site, "image").unlink()
    joined = run_cli(
        "polyclinic_client.cli.main",
        "join",
        "--insecure",
        "--server",
        f"127.0.0.1:{free_port()}",
        "--data",
        str(site),
        "--name",
        "a",
    )
    assert joined.returncode == 3
    assert "does not exist" in joined.stderr


def test_an_unreachable_server_is_named(site: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    joined = run_cli(
        "polyclinic_client.cli.main",
        "join",
        "--insecure",
        "--server",
        address,
        "--data",
        str(site),
        "--name",
        "a",
        "--state",
        str(tmp_path / "state"),
        "--wait",
        "0.5",
    )
    assert joined.returncode == 4
    assert f"No coordinator answers at {address}" in joined.stderr
    assert "Traceback" not in joined.stderr


@pytest.mark.parametrize("address", ["localhost", "host:port", ":1"])
def test_a_wrong_address_is_explained(address: str, site: Path, tmp_path: Path) -> None:
    joined = run_cli(
        "polyclinic_client.cli.main",
        "join",
        "--insecure",
        "--server",
        address,
        "--data",
        str(site),
        "--name",
        "a",
        "--state",
        str(tmp_path),
    )
    assert joined.returncode == 4
    assert "HOST:PORT" in joined.stderr


def test_a_name_that_could_be_a_path_is_refused(site: Path) -> None:
    joined = run_cli(
        "polyclinic_client.cli.main",
        "join",
        "--insecure",
        "--server",
        "127.0.0.1:1",
        "--data",
        str(site),
        "--name",
        "../a",
    )
    assert joined.returncode == 2
    assert "--name" in joined.stderr


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = run_cli(
            "polyclinic_server.cli.main",
            "run",
            "--insecure",
            f"deployment.port={port}",
            f"deployment.runs={tmp_path / 'runs'}",
        )
    assert ran.returncode == 4
    assert f"Port {port} on 127.0.0.1 is taken" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["strategy=averaging/fedav"], "Did you mean averaging/fedavg?"),
        (["training.epoch=1"], "There is no setting"),
        (["--insecure", "deployment.host=0.0.0.0"], "only this machine is served"),
        (["deployment.security=nowhere"], "polyclinic-server init --host NAME"),
        (["--resume", "nothing"], "There is no run 'nothing'"),
    ],
)
def test_a_wrong_setting_ends_run_at_once(arguments: list[str], said: str, tmp_path: Path) -> None:
    ran = run_cli(
        "polyclinic_server.cli.main", "run", *arguments, f"deployment.runs={tmp_path / 'runs'}"
    )
    assert ran.returncode in (2, 5)
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["status"],
        ["report"],
        ["export"],
        ["demo"],
        ["settings"],
        ["init"],
        ["enrol"],
        ["segment-service"],
        ["pretrain"],
    ],
)
def test_the_servers_help_is_there(command: list[str]) -> None:
    helped = run_cli("polyclinic_server.cli.main", *command, "--help")
    assert helped.returncode == 0
    assert "Usage" in helped.stdout


@pytest.mark.parametrize(
    "command", [[], ["join"], ["check"], ["predict"], ["keygen"], ["segment"], ["adapt"]]
)
def test_the_clients_help_is_there(command: list[str]) -> None:
    helped = run_cli("polyclinic_client.cli.main", *command, "--help")
    assert helped.returncode == 0
    assert "Usage" in helped.stdout


def test_a_model_that_is_not_ours_is_refused(tmp_path: Path, site: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no")
    predicted = run_cli(
        "polyclinic_client.cli.main",
        "predict",
        str(tmp_path / "model.safetensors"),
        str(first(site, "image")),
        "--out",
        str(tmp_path / "out"),
    )
    assert predicted.returncode == 3
    assert "not a readable safetensors file" in predicted.stderr


def test_a_full_disk_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    from collections import namedtuple

    import psutil

    from polyclinic.errors import DiskFull
    from polyclinic_client.cli.check import _check_disk
    from polyclinic_server.runs.coordinator import _create

    usage = namedtuple("usage", "total used free percent")
    monkeypatch.setattr(psutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000, 100.0))
    with pytest.raises(DiskFull, match="Free some space"):
        _check_disk(tmp_path)
    with pytest.raises(DiskFull, match="Free some space"):
        _create([f"deployment.runs={tmp_path / 'runs'}"], "run")
    assert not (tmp_path / "runs" / "run").exists()
