"""The universal model with real processes: three hospitals with different tasks, two stages."""

from collections.abc import Iterator

import pytest

from polyclinic.learning.model_file import load_model
from polyclinic.store.ledger import Ledger
from tests.e2e.federation import Federation
from tests.processes import run_cli
from tests.task_cohort import SECRETS, write_public, write_tasks

pytestmark = pytest.mark.e2e
SMALL = (
    "strategy=universal",
    "model=universal",
    "data=universal",
    "training=universal",
    "strategy.stages=2",
    "strategy.contributions.poll_s=0.5",
    "strategy.contributions.end.sites=[blobs]",
    "strategy.distillation.steps=20",
    "strategy.distillation.batch_size=16",
    "model.encoder.widths=[8,8,8,8]",
    "data.patch=[32,32]",
    "training.epochs=2",
    "training.batch_size=6",
    "deployment.hospitals=3",
    "deployment.min_hospitals=1",
)


@pytest.fixture(scope="module")
def universal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One hospital contributes to stage 1 by hand; then all join, and contribute to stage 2."""
    folder = tmp_path_factory.mktemp("universal")
    one = Federation(
        folder,
        write_tasks(folder / "data"),
        *SMALL,
        f"strategy.public={write_public(folder / 'public')}",
    )
    one.coordinator = one.make_coordinator("--name", "run")
    try:
        one.coordinator.start()
        alone = run_cli(
            "polyclinic_client.cli.main",
            "contribute",
            "--kit",
            str(one.enrol("blobs")),
            "--data",
            str(one.sites["blobs"]),
            "--state",
            str(folder / "state" / "blobs"),
        )
        assert alone.returncode == 0, alone.stderr
        for name in one.sites:
            one.join(name)
        assert one.wait() == 0, one.coordinator.log.read_text()[-2000:]
        yield one
    finally:
        one.close()


def test_every_stage_is_recorded_with_who_taught(universal: Federation) -> None:
    stages = universal.describe()["universal"]["stages"]
    first, second = (
        {each["site"]: each["task"] for each in stage["contributions"]} for stage in stages
    )
    assert first == {"blobs": "segmentation, 2 classes, 1 channel, 2-D"}
    assert "blobs" in second
    assert (
        universal.describe()["hospitals"]["stripes"]["task"]
        == "classification, 3 classes, 3 channels, 2-D"
    )
    assert all(each["received"] > 10_000 for stage in stages for each in stage["contributions"])
    assert all(
        set(stage["weights"]) == set(stage["trust"]) and len(stage["losses"]) == 20
        for stage in stages
    )


def test_the_ledger_holds_an_encoder_for_each_stage(universal: Federation) -> None:
    with Ledger.open(universal.runs / "run" / "ledger", create=False) as ledger:
        assert ledger.verify() is None
        assert len(set(ledger.bases())) == 3
        assert all(
            {name.partition(".")[0] for name in ledger.load_model(base)} == {"encoder"}
            for base in ledger.bases()
        )
        newest = ledger.load_model(ledger.bases()[-1])
    kept, job = load_model(universal.runs / "run" / "arms" / "universal" / "model.safetensors")
    assert job.data.task == "own" and kept.state_dict().keys() == newest.keys()


def test_every_hospital_has_figures_before_and_after(universal: Federation) -> None:
    tested = {
        (line["arm"], line["site"])
        for line in universal.metrics()
        if line["phase"] == "test" and line["score"] is not None
    }
    assert tested == {(arm, site) for arm in ("before", "universal") for site in SECRETS}


def test_a_hospital_predicts_with_the_model_that_it_kept(universal: Federation) -> None:
    model = (
        universal.folder / "state" / "discs" / "runs" / "run" / "universal" / "model.safetensors"
    )
    out = universal.folder / "out"
    done = run_cli(
        "polyclinic_client.cli.main",
        "predict",
        str(model),
        str(universal.sites["discs"] / "test-0.png"),
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    assert (
        (out / "predictions.csv")
        .read_text()
        .startswith("image,class,zebra-benign,quokka-malignant")
    )


def test_the_report_shows_tasks_and_no_class_names(universal: Federation) -> None:
    page = (universal.runs / "run" / "report.html").read_text()
    assert "Universal model" in page and "classification, 3 classes" in page
    everything = (
        page
        + (universal.runs / "run" / "events.jsonl").read_text()
        + (universal.runs / "run" / "metrics.jsonl").read_text()
    )
    assert not [
        name
        for names in SECRETS.values()
        for name in names
        if name != "background" and name in everything
    ]
