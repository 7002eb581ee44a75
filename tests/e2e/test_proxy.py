"""The deformation proxy with real processes: two hospitals train it, and it segments a scan."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import polyclinic
from polyclinic.federation.run_folder import read_lines
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.volumes import read_image
from polyclinic.learning.state_dict import load_state
from polyclinic_demos.cohorts.visits import T1, Visits, write_visits
from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_strategies.proxy.parts import GENERATOR, SEGMENTER
from polyclinic_strategies.proxy.protection import Protection
from tests.e2e.federation import Federation

pytestmark = pytest.mark.e2e
SMALL = (
    "strategy=proxy",
    "model=proxy",
    "data=proxy_brain",
    "training=proxy",
    "rounds=2",
    "model.channels=[4,4,4]",
    "model.spacing_mm=2.0",
    "data.patch=[48,48,48]",
    "model.segmenter.channels=[4,8,8]",
    "training.proxy.patch=[24,24,24]",
    "training.proxy.people=2",
    "deployment.hospitals=2",
    "deployment.min_hospitals=2",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("proxy")
    coarse = replace(T1, voxel_mm=(4.0, 4.0, 4.0))
    sites = [
        write_visits(folder / name, coarse, Visits((2, 1, 1)), seed)
        for seed, name in enumerate(("st-mary", "st-john"))
    ]
    one = Federation(folder, sites, *SMALL)
    one.coordinator = one.make_coordinator("--name", "run")
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name)
        assert one.wait() == 0, one.coordinator.log.read_text()[-2000:]
        yield one
    finally:
        one.close()


def test_every_round_has_figures_of_both_hospitals(trained: Federation) -> None:
    rows = read_lines(trained.runs / "run" / "metrics.jsonl")
    scored = {(row["site"], row["round"]) for row in rows if row["phase"] == "validate"}
    assert scored >= {(site, number) for site in trained.sites for number in (1, 2)}


def test_what_comes_out_protects_and_segments_a_scan(trained: Federation) -> None:
    folder = trained.runs / "run" / "arms" / "proxy"
    protection, model = (
        Protection.load(folder / GENERATOR),
        SegmentationModel.load(folder / SEGMENTER),
    )
    assert (model.digest, model.shape) == (protection.digest, protection.shape)
    volume = read_image(read_dataset(trained.sites["st-mary"]).test[0].image, 1, 3)
    assert protection.protect(volume).proxy.shape == model.shape


def test_all_three_networks_were_trained(trained: Federation) -> None:
    state, _ = load_state(trained.runs / "run" / "arms" / "proxy" / "model.safetensors")
    first = {name.partition(".")[0] for name in state}
    assert first == {"field", "segmenter", "adversary"}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    assert (
        float(state["field.network.head.weight"].abs().max()) > 0.005
    )  # it starts from a spread of 0.001


def test_a_hospital_keeps_its_canonical_scans(trained: Federation) -> None:
    kept = trained.folder / "state" / "st-mary" / "canonical"
    assert len(list(kept.glob("*.safetensors"))) == 4


def test_a_simulation_trains_the_same_networks(trained: Federation, tmp_path: Path) -> None:
    result = polyclinic.simulate(trained.sites, *SMALL, folder=tmp_path, progress=False)
    ours, _ = load_state(result.model_file("proxy"))
    theirs, _ = load_state(trained.runs / "run" / "arms" / "proxy" / "model.safetensors")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
