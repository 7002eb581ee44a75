"""What a person sees of a federation of real processes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from polyclinic_demos.federation import family_of
from tests.e2e.federation import Federation
from tests.processes import run_cli

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]


def figures(federation: Federation) -> list[tuple[object, ...]]:
    """Every figure of a run, without the times."""
    lines = [
        {key: value for key, value in line.items() if key not in ("time", "seconds")}
        for line in federation.metrics()
    ]
    return sorted(
        (line["arm"], line["round"], line["phase"], line["site"], json.dumps(line, sort_keys=True))
        for line in lines
    )


def test_a_run_leaves_everything_that_is_needed_to_believe_it(undisturbed: Federation) -> None:
    run = undisturbed.runs / "run"
    described = undisturbed.describe()
    assert described["state"] == "finished"
    assert described["seed"] == 0
    assert described["versions"]["flwr"].startswith("1.")
    assert set(described["hospitals"]) == set(undisturbed.sites)
    assert (
        "_target_: polyclinic_strategies.averaging.strategy.Averaging"
        in (run / "config.yaml").read_text()
    )
    assert list(run.glob("arms/fedbn/tensorboard/events.out.tfevents.*"))
    assert load_file(run / "arms" / "fedbn" / "model.safetensors")
    phases = {(line["phase"], line["round"]) for line in undisturbed.metrics()}
    assert phases == {
        (phase, number) for phase in ("train", "validate") for number in (1, 2, 3)
    } | {("test", 3)}
    page = (run / "report.html").read_text()
    assert all(site in page for site in undisturbed.sites)
    assert not re.search(r"(src|href)=[\"']https?:", page)


def test_the_coordinator_tells_what_happens_while_it_happens(undisturbed: Federation) -> None:
    told = undisturbed.coordinator.log.read_text()
    assert all(f"{site} joined (T1, 2 training cases)" in told for site in undisturbed.sites)
    assert all(f"FedBN, round {number} of 3: loss" in told for number in (1, 2, 3))


def test_normalization_stays_at_the_hospitals_and_so_do_pictures(undisturbed: Federation) -> None:
    kept = undisturbed.folder / "state"
    scales = [load_file(path) for path in sorted(kept.glob("*/runs/run/fedbn/model.safetensors"))]
    assert len(scales) == 3
    norms = [name for name in scales[0] if ".adn.N." in name]
    others = [name for name in scales[0] if name not in norms and scales[0][name].dtype.kind == "f"]
    assert norms and others
    assert any(not np.array_equal(scales[0][name], scales[1][name]) for name in norms)
    assert all(np.array_equal(scales[0][name], each[name]) for name in others for each in scales)
    assert len(list(kept.glob("*/runs/run/fedbn/pictures/truth.png"))) == 3
    assert not list((undisturbed.runs / "run").glob("pictures/*"))


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    undisturbed: Federation, federation: Make
) -> None:
    again = federation("strategy=averaging/fedbn", "rounds=3", "deployment.hospitals=3")
    again.coordinator.start()
    for name in reversed(list(again.sites)):
        again.join(name)
    assert again.wait() == 0
    assert figures(again) == figures(undisturbed)


def test_the_exported_model_segments_a_scan_on_its_own_grid(
    undisturbed: Federation, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    exported = run_cli(
        "polyclinic_server.cli.main",
        "export",
        "latest",
        "--to",
        str(model),
        "--runs",
        str(undisturbed.runs),
    )
    assert exported.returncode == 0, exported.stderr
    scan = next(iter(undisturbed.sites.values())) / "imagesTs"
    images = sorted(map(str, scan.glob("*.nii.gz")))
    predicted = run_cli(
        "polyclinic_client.cli.main", "predict", str(model), *images, "--out", str(tmp_path / "out")
    )
    assert predicted.returncode == 0, predicted.stderr
    for image in images:
        before, after = nib.load(image), nib.load(tmp_path / "out" / Path(image).name)
        assert after.shape == before.shape
        np.testing.assert_allclose(after.affine, before.affine)
        assert set(np.unique(np.asarray(after.dataobj))) <= {0, 1, 2, 3}


def test_status_and_report_speak_of_the_run(undisturbed: Federation) -> None:
    status = run_cli("polyclinic_server.cli.main", "status", "--runs", str(undisturbed.runs))
    assert "finished" in status.stdout and "FedBN" in status.stdout
    report = run_cli(
        "polyclinic_server.cli.main", "report", "latest", "--runs", str(undisturbed.runs)
    )
    assert report.returncode == 0 and "report.html" in report.stdout
    missing = run_cli(
        "polyclinic_server.cli.main", "report", "other", "--runs", str(undisturbed.runs)
    )
    assert missing.returncode == 5 and "There is no run 'other'" in missing.stderr


def test_a_run_leaves_no_process_behind(federation: Make) -> None:
    one = federation("strategy=averaging/fedavg", "rounds=1", "deployment.hospitals=2")
    one.coordinator.start()
    started = [one.join(name) for name in list(one.sites)[:2]]
    one.wait_until(lambda: one.events("arm_start"), "the first round")
    everything = [each for child in (one.coordinator, *started) for each in family_of(child.pid)]
    assert len(everything) >= 2  # two workers
    assert one.wait() == 0
    one.close()
    _, alive = psutil.wait_procs(everything, timeout=10)
    assert alive == []
    assert all(child.status() == 130 for child in started)


def test_too_few_hospitals_end_the_run_in_time_with_the_reason(federation: Make) -> None:
    one = federation("deployment.wait_s=15", "rounds=1")
    one.coordinator.start()
    one.join(next(iter(one.sites)))
    assert one.wait(120) == 5
    assert "the minimum is 2" in one.coordinator.log.read_text()
    assert one.describe()["state"] == "failed"
    assert "mprage-3t answered" in one.describe()["reason"]


def test_several_strategies_run_one_after_another_with_the_same_hospitals(federation: Make) -> None:
    one = federation(
        "strategy=averaging/local,averaging/fedprox,averaging/fedadam",
        "rounds=2",
        "deployment.hospitals=2",
    )
    one.coordinator.start()
    for name in list(one.sites)[:2]:
        one.join(name)
    assert one.wait() == 0, one.coordinator.log.read_text()
    assert [arm["name"] for arm in one.describe()["arms"]] == ["local", "fedprox", "fedadam"]
    tested = {line["arm"] for line in one.metrics() if line["phase"] == "test"}
    assert tested == {"local", "fedprox", "fedadam"}
