"""Models that are evaluated together: what is refused, how they are named, what is asked."""

import json
from pathlib import Path

import pytest

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic_strategies.evaluation.exchange import COMPARED, WEIGHTS, compared_models
from polyclinic_strategies.evaluation.models import TOLERANCE, make_orders, read_models, settings_of
from polyclinic_strategies.evaluation.state import find_training
from tests.strategies.evaluation.written_models import TINY, write_model


def test_models_are_named_by_their_files_and_never_alike(tmp_path: Path) -> None:
    paths = [
        write_model(tmp_path / "a" / "fedavg" / "model.safetensors", run="first", seed=1),
        write_model(tmp_path / "b" / "fedavg" / "model.safetensors", run="second", seed=2),
        write_model(tmp_path / "a b.safetensors", seed=3),
        write_model(tmp_path / ".hidden.safetensors", seed=4),
        write_model(tmp_path / "c" / "fedavg" / "model.safetensors", seed=5),
    ]
    names = [each.name for each in read_models(paths)]
    assert names == ["fedavg", "fedavg-second", "a-b", "m.hidden", "fedavg-2"]


def test_settings_compose_to_the_models_job(tmp_path: Path) -> None:
    labels = "data.labels=['background, air','tumour \\'x\\'']"
    path = write_model(tmp_path / "it's [one].safetensors", *TINY, labels, "data.patch=[32,32]")
    models = read_models([path], 1.5)
    config = load_config(settings_of(models, 1.5))
    assert config.data == models[0].job.data and config.data.tolerance_mm == 1.5
    assert config.data.labels == ("background, air", "tumour 'x'")
    assert config.strategy["models"] == [str(path)]
    assert config.model == models[0].job.model


def test_an_order_names_its_weights_and_the_models_before_it(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3)]
    models = read_models(paths, 1.5)
    orders = make_orders(models, "run", 7)
    digests = [each.weights_digest for each in models]
    assert [order.digests[WEIGHTS] for order in orders] == digests
    assert [compared_models(order.digests) for order in orders] == [
        {}, {"0": digests[0]}, {"0": digests[0], "1": digests[1]},
    ]  # fmt: skip
    assert all(order.settings[TOLERANCE] == 1.5 for order in orders)


def test_a_compared_name_leads_nowhere() -> None:
    names = ("../x", "a/b", "", ".", "..", "-a", "a" * 101, "good", "a\n")
    assert compared_models({f"{COMPARED}{name}": "d" for name in names}) == {"good": "d"}


@pytest.mark.parametrize(
    "settings", [("data.labels=[background,other]",), ("data.labels=[background,a,b]",)]
)
def test_other_labels_are_refused(tmp_path: Path, settings: tuple[str, ...]) -> None:
    first = write_model(tmp_path / "a.safetensors")
    other = write_model(tmp_path / "b.safetensors", *TINY, *settings)
    with pytest.raises(ConfigError, match="labels"):
        read_models([first, other])


def test_what_is_no_whole_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model"):
        read_models([])
    path = write_model(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="same model"):
        read_models([path, path])
    with pytest.raises(ConfigError, match="norm"):
        read_models([write_model(tmp_path / "b.safetensors", personal="norm")])
    (tmp_path / "c.safetensors").write_bytes(b"no model")
    with pytest.raises(ModelInvalid):
        read_models([tmp_path / "c.safetensors"])
    with pytest.raises(ModelInvalid):
        read_models([tmp_path / "missing.safetensors"])


def test_the_run_beside_a_model_says_how_it_was_trained(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "first" / "arms" / "fedavg" / "model.safetensors", run="first", arm="fedavg"
    )
    described = {
        "state": "finished",
        "name": "first",
        "arms": [{"name": "fedavg", "title": "FedAvg"}],
        "hospitals": {"a": {"training": 5}, "b": {"training": 7}},
    }
    (tmp_path / "first" / "run.json").write_text(json.dumps(described))
    found = find_training(read_models([path])[0])
    assert (found.run, found.strategy, found.round) == ("first", "FedAvg", 3)
    assert (found.hospitals, found.cases) == (2, 12)
    (tmp_path / "first" / "run.json").write_text(json.dumps({**described, "name": "other"}))
    assert find_training(read_models([path])[0]).hospitals is None
    (tmp_path / "first" / "run.json").write_text("{")
    assert find_training(read_models([path])[0]).strategy == "fedavg"
