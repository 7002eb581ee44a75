"""Files of weights: tensors by name, and nothing else."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic.errors import ModelInvalid
from polyclinic.learning.bundles.weights import load_weights
from polyclinic.learning.state_dict import save_state

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


@pytest.mark.parametrize("found", [STATE, {"model": STATE, "epoch": 3}, {"state_dict": STATE}])
def test_weights_lie_at_the_top_or_one_level_deeper(found: dict[str, Any], tmp_path: Path) -> None:
    torch.save(found, tmp_path / "model.pt")
    read = load_weights(tmp_path / "model.pt")
    assert set(read) == set(STATE)
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_safetensors_are_read_likewise(tmp_path: Path) -> None:
    save_state(STATE, tmp_path / "model.safetensors", {})
    assert torch.equal(load_weights(tmp_path / "model.safetensors")["conv.bias"], torch.ones(2))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    "found", [{"a": Evil()}, nn.Linear(2, 2), [torch.ones(2)], {}, {3: torch.ones(2)}, 7]
)
def test_other_objects_are_never_loaded(
    found: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(found, tmp_path / "model.pt")
    with pytest.raises(ModelInvalid, match=r"model\.pt"):
        load_weights(tmp_path / "model.pt")
    assert "executed" not in capsys.readouterr().out


def test_damaged_files_and_bare_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content in (b"", b"no", pickle.dumps(Evil()), b"PK\x03\x04" + b"\0" * 50):
        path.write_bytes(content)
        with pytest.raises(ModelInvalid):
            load_weights(path)
    with pytest.raises(ModelInvalid):
        load_weights(tmp_path / "none.pt")


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1).expand(10**10)}, path)
    with pytest.raises(ModelInvalid, match="claims"):
        load_weights(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100 * 2**20))
    with pytest.raises(ModelInvalid, match="expands"):
        load_weights(path)
