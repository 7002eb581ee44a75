from pathlib import Path

import pytest
import torch
from torch import Tensor

from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import save_state
from polyclinic_strategies.merging.streaming.streams import StoredState, file_order, write_stream

STATE: dict[str, Tensor] = {
    "b.weight": torch.randn(3, 2),
    "a.weight": torch.randn(2, 2, 2).to(torch.bfloat16),
    "c.steps": torch.tensor(5),
    "d.half": torch.randn(5).half(),
    "e.exact": torch.randn(2).double(),
    "f.mask": torch.tensor([True, False, True]),
    "g.small": torch.arange(4, dtype=torch.int32),
    "h.byte": torch.arange(3, dtype=torch.uint8),
    "i.signed": torch.arange(3, dtype=torch.int8),
    "j.short": torch.arange(3, dtype=torch.int16),
    "k.empty": torch.zeros(0, 4),
    "ü.name": torch.zeros(1),
}


@pytest.mark.parametrize("metadata", [{}, {"polyclinic": '{"a": "ü\\n"}'}])
def test_a_stream_gives_the_bytes_that_safetensors_writes(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    save_state(STATE, tmp_path / "whole.safetensors", metadata)
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in STATE.items()}
    write_stream(
        tmp_path / "stream.safetensors",
        layout,
        ((name, STATE[name]) for name in file_order(layout)),
        metadata,
    )
    assert (tmp_path / "stream.safetensors").read_bytes() == (
        tmp_path / "whole.safetensors"
    ).read_bytes()
    with StoredState(tmp_path / "stream.safetensors") as stored:
        assert stored.layout() == layout
        assert stored.metadata == metadata
        assert len(stored) == len(STATE)
        assert all(torch.equal(stored[name], STATE[name]) for name in stored)


def test_a_stream_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_state({"a": torch.ones(2), "b": torch.ones(2)}, path, {})
    before = path.read_bytes()
    layout = dict.fromkeys("ab", (torch.float32, (2,)))
    for tensors in ([("a", torch.zeros(2))], [("a", torch.zeros(2)), ("b", torch.zeros(3))]):
        with pytest.raises(AssertionError):
            write_stream(path, layout, tensors, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(ModelInvalid, match="not a readable safetensors file"):
        StoredState(path)
    with pytest.raises(ModelInvalid, match="not a readable"):
        StoredState(tmp_path / "absent.safetensors")
