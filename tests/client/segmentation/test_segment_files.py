"""Client of a segmentation service: label maps on the images' own grids, proxies on the wire."""

import struct
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from polyclinic.errors import AddressInvalid, ConfigError, ImageInvalid, ImageUnreadable
from polyclinic.imaging.volumes import read_image
from polyclinic_client.network.connection import Connection
from polyclinic_client.segmentation.segment_files import Job, plan, segment_files
from polyclinic_client.segmentation.service_choice import choose_generator, service_connection
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import acquire
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_strategies.proxy.frame.canonical import canonicalize
from polyclinic_strategies.proxy.protection import Protection, quantize
from tests.client.segmentation.proxies import (
    AFFINE,
    DESCRIPTION,
    NAME,
    Recorder,
    Rolling,
    Script,
    answer,
    failing,
    run,
    scripted,
    write_image,
)
from tests.server.segmentation.segmentation_services import (
    LABELS,
    SHAPE,
    a_model_for,
    a_volume,
    expected,
    service,
)
from tests.strategies.proxy.test_protection import protecting


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_an_image_comes_back_as_labels_on_its_own_grid_over_tls(kind: str, tmp_path: Path) -> None:
    volume = write_image(tmp_path / "images" / f"{NAME}.nii.gz")
    (job,) = plan([tmp_path / "images" / f"{NAME}.nii.gz"], tmp_path / "labels.nii.gz", None)
    with service(tmp_path / "lab") as lab:
        run([job], lab.hospital("st-mary"), kind=kind)
        assert all(line.startswith("st-mary: ") and NAME not in line for line in lab.lines)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(written.affine.astype(np.float32), AFFINE.astype(np.float32))
    same = np.asarray(written.dataobj) == expected(volume)
    assert same.all() if kind == "labels" else same.mean() > 0.99


def test_a_scan_is_warped_with_a_generator_and_comes_back(tmp_path: Path) -> None:
    written = protecting(labels=LABELS)
    written.save(tmp_path / "generator.safetensors")
    protection = Protection.load(tmp_path / "generator.safetensors")
    scan = acquire(subject(1), replace(HOSPITALS[0], voxel_mm=(4.0, 4.0, 4.0)), seed=0)
    nib.save(nib.Nifti1Image(scan.image.astype(np.float32), scan.affine), tmp_path / "scan.nii.gz")
    (job,) = plan([tmp_path / "scan.nii.gz"], tmp_path / "out", tmp_path / "pictures")
    with service(model=a_model_for(protection)) as lab:
        segment_files(
            [job], lab.hospital("a"), protection, "probabilities", 1, 30.0, Console(quiet=True)
        )
    labels = np.asarray(nib.load(job.target).dataobj)
    assert labels.shape == scan.label_map.shape and job.preview is not None and job.preview.exists()
    still = canonicalize(read_image(job.image, 1, 3), protection.reference)
    unwarped = still.label_map(torch.from_numpy(expected(quantize(still.image()))))
    for number in (1, 2):
        one, other = labels == number, unwarped == number
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.85, number


def telling(keys: list[bytes]) -> dict[str, bytes]:
    """Everything of the image that must not travel, in every form that it might."""
    forms = {
        "key": keys[0],
        "name": NAME.encode(),
        "part of the name": b"Miller",
        "header": DESCRIPTION,
        "aux file": b"ward-7",
        "path": b".nii",
    }
    for place, number in np.ndenumerate(AFFINE):
        if number not in (0, 1):
            for code in ("<f", ">f", "<d", ">d"):
                forms[f"affine {place} {code}"] = struct.pack(code, number)
            forms[f"affine {place} text"] = f"{number:g}".encode()
    return forms


def test_nothing_of_the_image_travels_but_the_proxy(tmp_path: Path) -> None:
    volume = write_image(tmp_path / f"{NAME}.nii.gz")
    protection, script = Rolling(), Script(answer)
    with scripted(script) as address:
        recorder = Recorder(address)
        try:
            run(
                [Job(tmp_path / f"{NAME}.nii.gz", tmp_path / "labels.nii.gz", None)],
                Connection(recorder.address, "st-mary"),
                protection,
            )
        finally:
            recorder.close()
    assert len(recorder.sent) > volume.size
    found = [what for what, form in telling(protection.keys).items() if form in recorder.sent]
    assert not found
    # names and values of the call's metadata may be packed on the wire: look where they arrive
    (request,) = script.requests
    assert set(request.metadata) <= {"user-agent"}
    assert {field.name for field, _ in request.header.ListFields()} == {
        "shape",
        "dtype",
        "answer",
        "request_id",
    }
    assert (
        request.header.request_id not in protection.keys[0] and tuple(request.header.shape) == SHAPE
    )
    shifts = tuple(protection.keys[0][axis] % size for axis, size in enumerate(SHAPE))
    np.testing.assert_array_equal(request.volume, np.roll(volume, shifts, (0, 1, 2)))


def test_what_a_call_shows_besides_is_the_key_and_the_sites_name(tmp_path: Path) -> None:
    with service(tmp_path / "lab") as lab:
        shown = dict(lab.hospital("st-mary").credentials() or ())
    assert set(shown) == {
        "flwr-public-key-bin",
        "flwr-timestamp",
        "flwr-signature-bin",
        "polyclinic-site",
    }


def test_a_folder_is_segmented_and_what_exists_is_left_alone(tmp_path: Path) -> None:
    volumes = {
        f"scan{number}": write_image(tmp_path / "in" / f"scan{number}.nii.gz", number)
        for number in range(5)
    }
    protection = Rolling()
    jobs = plan([tmp_path / "in"], tmp_path / "out", None)
    with service() as lab:
        run(jobs, lab.hospital("a"), protection)
        (tmp_path / "out" / "scan3.nii.gz").unlink()
        said = run(jobs, lab.hospital("a"), protection)
    assert said.count("exists, left alone") == 4
    assert (
        len(set(protection.keys)) == 6
    )  # a key for every image, and another when it is done again
    for name, volume in volumes.items():
        np.testing.assert_array_equal(
            np.asarray(nib.load(tmp_path / "out" / f"{name}.nii.gz").dataobj), expected(volume)
        )


def test_a_faulty_image_is_left_out_and_the_others_are_done(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.nii.gz")
    broken = a_volume().astype(np.float32)
    broken[0, 0, 0] = np.nan
    write_image(tmp_path / "in" / "b.nii.gz", voxels=broken)
    write_image(tmp_path / "in" / "c.nii.gz")
    with service() as lab:
        assert "NaN" in failing(
            ImageInvalid, plan([tmp_path / "in"], tmp_path / "out", None), lab.hospital("a")
        )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_a_preview_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "scan.nii.gz")
    (job,) = plan([tmp_path / "scan.nii.gz"], tmp_path / "out", tmp_path / "pictures")
    with service() as lab:
        run([job], lab.hospital("a"))
    assert (
        job.preview == tmp_path / "pictures" / "scan.png"
        and job.preview.read_bytes().startswith(b"\x89PNG")
    )


def test_what_is_no_image_is_never_sent(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"hello")
    script = Script(answer)
    with scripted(script) as address:
        failing(
            ImageUnreadable,
            plan([tmp_path / "scan.nii.gz"], tmp_path / "out", None),
            Connection(address, "a"),
        )
    assert script.requests == []


def test_results_and_previews_have_their_places(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "scan.nii.gz", tmp_path / "b" / "other.nii"
    assert plan([first], Path("x.nii.gz"), Path("x.png")) == [
        Job(first, Path("x.nii.gz"), Path("x.png"))
    ]
    assert plan([first], Path("out"), Path("pictures")) == [
        Job(first, Path("out/scan.nii.gz"), Path("pictures/scan.png"))
    ]
    assert plan([first, second], Path("out"), None)[1] == Job(
        second, Path("out/other.nii.gz"), None
    )
    for images, out, said in [
        ([first, second], "x.nii.gz", "Name a folder"),
        ([first, tmp_path / "b" / "scan.nii"], "out", "same name"),
        ([tmp_path], "out", "neither a NIfTI file"),
    ]:
        with pytest.raises(ConfigError, match=said):
            plan(images, Path(out), None)


def test_options_that_say_too_little_or_too_much(tmp_path: Path) -> None:
    kit = kit_for(local_authority(tmp_path / "security", 9092), "st-mary")
    assert service_connection(None, kit, None, insecure=False).server == "127.0.0.1:9443"
    assert service_connection("127.0.0.1:7", kit, None, insecure=False).server == "127.0.0.1:7"
    assert service_connection("127.0.0.1:7", None, None, insecure=True).kit is None
    for server, given, insecure, said in [
        (None, None, True, "needs --server"),
        (None, None, False, "--kit FILE"),
        ("192.0.2.7:9443", None, True, "plain text never leaves"),
        ("127.0.0.1:7", kit, True, "exclude each other"),
    ]:
        with pytest.raises(ConfigError, match=said):
            service_connection(server, given, None, insecure=insecure)
    with pytest.raises(AddressInvalid):
        service_connection("nowhere", kit, None, insecure=False)
    with pytest.raises(ConfigError, match="there is no generator here"):
        choose_generator(None, kit)
    with pytest.raises(ConfigError, match="--generator FILE"):
        choose_generator(None, None)
    (kit.parent / "generator.safetensors").touch()
    assert choose_generator(None, kit) == kit.parent / "generator.safetensors"
