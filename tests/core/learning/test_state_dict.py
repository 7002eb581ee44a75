from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.state_dict import (
    layout_digest,
    load_metadata,
    load_state,
    pack,
    save_state,
    shared_names,
    state_digest,
    unpack,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1), nn.GroupNorm(1, 1)
    )


def test_norm_layers_stay_and_counters_never_travel() -> None:
    assert shared_names(network(), "norm") == ["0.weight", "0.bias", "2.weight", "2.bias"]
    everything = shared_names(network(), "none")
    assert "1.running_mean" in everything
    assert "1.num_batches_tracked" not in everything
    assert shared_names(network(), "all") == []


def test_instance_normalization_counts_as_normalization() -> None:
    assert shared_names(
        nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1, affine=True)), "norm"
    ) == ["0.weight", "0.bias"]


def test_an_unknown_word_for_what_stays_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of none, norm, all"):
        shared_names(network(), "some")


@pytest.mark.parametrize("personal", ["none", "norm", "all"])
def test_unpack_is_the_inverse_of_pack(personal: str) -> None:
    state = network().state_dict()
    names = shared_names(network(), personal)
    returned = unpack(pack(state, names), state, names)
    assert list(returned) == names
    for name in names:
        assert_close(returned[name], state[name], rtol=0, atol=0)


def test_a_vector_of_another_network_is_refused() -> None:
    state, names = network().state_dict(), shared_names(network(), "none")
    with pytest.raises(ModelInvalid, match="have 3 numbers"):
        unpack(torch.zeros(3), state, names)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    state, names = network().state_dict(), shared_names(network(), "none")
    vector = pack(state, names)
    vector[5] = value
    with pytest.raises(ModelInvalid, match="NaN or Inf"):
        unpack(vector, state, names)


def test_the_layout_is_names_and_shapes_not_values() -> None:
    state, names = network().state_dict(), shared_names(network(), "none")
    moved = {name: tensor + 1 for name, tensor in state.items()}
    assert layout_digest(state, names) == layout_digest(moved, names)
    assert layout_digest(state, names) != layout_digest(state, names[:-1])
    other = {**state, "0.weight": state["0.weight"].reshape(1, 2, 3, 3)}
    assert layout_digest(state, names) != layout_digest(other, names)


def test_files_keep_tensors_and_metadata(tmp_path: Path) -> None:
    state = network().state_dict()
    save_state(state, tmp_path / "new" / "model.safetensors", {"polyclinic": '{"round": 3}'})
    loaded, metadata = load_state(tmp_path / "new" / "model.safetensors")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert load_metadata(metadata, tmp_path)["round"] == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelInvalid, match="not a readable safetensors file"):
        load_state(path)


def test_a_file_of_somebody_else_is_refused() -> None:
    with pytest.raises(ModelInvalid, match="no polyclinic metadata"):
        load_metadata({}, Path("their.safetensors"))


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3), "empty": torch.zeros(0, 4)}
    digest = state_digest(state)
    assert digest == state_digest(dict(reversed(state.items())))
    assert digest == state_digest(
        {**state, "b": torch.tensor([[1.0, 0.0], [2.0, 0.0]])[:, :1].T}
    )  # not contiguous
    others = (
        {**state, "b": torch.tensor([[1.0, 2.5]])},
        {**state, "b": torch.tensor([1.0, 2.0])},
        {**state, "a": torch.tensor(3, dtype=torch.int32)},
        {**state, "b": torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)},
        {"a": state["a"], "b": state["b"]},
        {"a": state["a"], "c": state["b"], "empty": state["empty"]},
    )
    assert len({digest, *map(state_digest, others)}) == 1 + len(others)


def test_the_digest_stays_the_same_from_version_to_version() -> None:
    assert (
        state_digest({"w": torch.tensor([1.0, -2.0])})
        == "6e85017d6f25f24b11cb5f9dc2e612f122017eee0527e1d84d8cb90f343ed79a"
    )
