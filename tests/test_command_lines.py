"""Wrong input at the command line: one line that names the cause, and an exit code by its kind."""

import gzip
import json
import re
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from polyclinic.system.processes import free_port
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from tests.processes import run_cli

pytestmark = pytest.mark.usefixtures("nursed")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    coarse = [replace(HOSPITALS[0], voxel_mm=(10.0, 10.0, 10.0))]
    return write_cohort(tmp_path / "cohort", sites=1, subjects=(1, 1, 1), scanners=coarse)[0]


def join(
    site: Path, address: str, name: str = "a", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `polyclinic-client join` without keys."""
    command = ("join", "--insecure", "--server", address, "--data", str(site), "--name", name)
    return run_cli("polyclinic_client.cli.main", *command, *options)


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


Damage = Callable[[Path], object]
Voxels = np.ndarray


def with_label_9(voxels: Voxels) -> Voxels:
    return np.where(voxels == 3, 9, voxels).astype(np.uint8)


# how a data set is damaged, and what the message must name
BAD: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "a missing file": (lambda site: first(site, "image").unlink(), ("image", "exist")),
    "no image at all": (
        lambda site: first(site, "image").write_bytes(b"hello"),
        ("image", "cannot be read"),
    ),
    "NaN voxels": (
        lambda site: rewrite(first(site, "image"), with_nan),
        ("image", "NaN", "1 of"),
    ),
    "an undeclared label": (
        lambda site: rewrite(first(site, "label"), with_label_9),
        ("label", "label 9"),
    ),
    "other shapes": (
        lambda site: rewrite(first(site, "label"), lambda voxels: voxels[:-1]),
        ("label", "grid"),
    ),
    "an empty split": (empty_split, ("", "dataset.json", "'training'", "empty")),
    "a header that claims 100 GB": (
        lambda site: claim_100_gb(first(site, "image")),
        ("image", "header", "100"),
    ),
    "broken JSON": (
        lambda site: (site / "dataset.json").write_text("{"),
        ("", "dataset.json"),
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_check_says_what_is_wrong_with_a_data_set(what: str, site: Path) -> None:
    damage, (kind, *words) = BAD[what]
    if kind:
        words.append(first(site, kind).name)
    damage(site)
    checked = run_cli("polyclinic_client.cli.main", "check", "--data", str(site))
    assert checked.returncode == 3
    for output in (checked.stderr, checked.stdout):  # stdout lists everything that was checked
        assert [word for word in words if word not in output] == []
        assert "Traceback" not in output
    assert checked.stderr.count("\n") == 1


def test_check_finds_nothing_wrong_with_a_sound_data_set(site: Path, tmp_path: Path) -> None:
    checked = run_cli(
        "polyclinic_client.cli.main", "check", "--data", str(site), "--state", str(tmp_path)
    )
    assert checked.returncode == 0, checked.stderr
    titles = re.findall(r"^(?:ok|note) +([^:]+):", checked.stdout, re.MULTILINE)
    machine = ["state", "patients", "disk", "memory", "GPU", "/dev/shm", "training", "way out"]
    assert titles == ["dataset.json", "images", *machine]


def test_join_refuses_a_faulty_data_set_before_it_dials(site: Path) -> None:
    image = first(site, "image")
    image.unlink()
    joined = join(site, f"127.0.0.1:{free_port()}")
    assert joined.returncode == 3
    assert image.name in joined.stderr


def test_an_unreachable_server_is_named(site: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    joined = join(site, address, options=["--state", str(tmp_path / "state"), "--wait", "0.5"])
    assert joined.returncode == 4
    assert address in joined.stderr
    assert "Traceback" not in joined.stderr


@pytest.mark.parametrize("address", ["localhost", "host:port", ":1"])
def test_a_wrong_address_is_explained(address: str, site: Path, tmp_path: Path) -> None:
    joined = join(site, address, options=["--state", str(tmp_path)])
    assert joined.returncode == 4
    assert "HOST:PORT" in joined.stderr


def test_a_name_that_could_be_a_path_is_refused(site: Path) -> None:
    joined = join(site, "127.0.0.1:1", name="../a")
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
    assert str(port) in ran.stderr and "127.0.0.1" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".fleet"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["strategy=averaging/fedav"], "averaging/fedavg?"),
        (["training.epoch=1"], "training.epoch"),
        (["--insecure", "deployment.host=0.0.0.0"], "0.0.0.0"),
        (["deployment.security=nowhere"], "polyclinic-server init"),
        (["--resume", "nothing"], "'nothing'"),
    ],
)
def test_a_wrong_setting_ends_run_at_once(arguments: list[str], named: str, tmp_path: Path) -> None:
    runs = f"deployment.runs={tmp_path / 'runs'}"
    ran = run_cli("polyclinic_server.cli.main", "run", *arguments, runs)
    assert ran.returncode in (2, 5)
    assert named in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert "Traceback" not in ran.stderr


SERVER = "run status report export demo settings init enrol segment-service pretrain"
CLIENT = "join check predict keygen segment adapt"


@pytest.mark.parametrize("command", ["", *SERVER.split()])
def test_the_servers_help_is_there(command: str) -> None:
    helped = run_cli("polyclinic_server.cli.main", *command.split(), "--help")
    assert helped.returncode == 0
    assert "Usage" in helped.stdout


@pytest.mark.parametrize("command", ["", *CLIENT.split()])
def test_the_clients_help_is_there(command: str) -> None:
    helped = run_cli("polyclinic_client.cli.main", *command.split(), "--help")
    assert helped.returncode == 0
    assert "Usage" in helped.stdout


def test_a_model_that_is_not_ours_is_refused(tmp_path: Path, site: Path) -> None:
    model, image = tmp_path / "model.safetensors", first(site, "image")
    model.write_bytes(b"no")
    arguments = ("predict", str(model), str(image), "--out", str(tmp_path / "out"))
    predicted = run_cli("polyclinic_client.cli.main", *arguments)
    assert predicted.returncode == 3
    assert str(model) in predicted.stderr and predicted.stderr.count("\n") == 1


def test_a_full_disk_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    from collections import namedtuple

    import psutil

    from polyclinic.errors import DiskFull
    from polyclinic_client.cli.check_machine import check_disk
    from polyclinic_server.runs.coordinator import create_run

    usage = namedtuple("usage", "total used free percent")
    monkeypatch.setattr(psutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000, 100.0))
    with pytest.raises(DiskFull, match=str(tmp_path)):
        check_disk(tmp_path)
    with pytest.raises(DiskFull, match=str(tmp_path / "runs")):
        create_run([f"deployment.runs={tmp_path / 'runs'}"], "run")
    assert not (tmp_path / "runs" / "run").exists()
