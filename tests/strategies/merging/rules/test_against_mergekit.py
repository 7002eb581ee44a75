"""Our rules and mergekit's on the same tensors.

mergekit lives in an environment of its own: `make mergekit`, or name a python.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from polyclinic_strategies.merging.arithmetic.layer import Layer, Rule
from polyclinic_strategies.merging.rules.dare import Dare
from polyclinic_strategies.merging.rules.dare_ties import DareTies
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.ties import Ties
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean

ROOT = Path(__file__).resolve().parents[4]
PYTHON = Path(os.environ.get("POLYCLINIC_MERGEKIT", ROOT / ".mergekit" / "bin" / "python"))
SCRIPT = """
import json, sys
from safetensors.torch import load_file, save_file
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
merged = {}
for case, (method, based, parameters) in json.loads(sys.argv[3]).items():
    for name, stack in load_file(sys.argv[1]).items():
        tensors = [stack[0] * 0, *stack] if based else list(stack)
        group = TensorGroup.from_tensors(tensors, base_index=0 if based else None)
        inputs = range(1 if based else 0, len(tensors))
        given = {
            key: dict(zip(inputs, value)) if isinstance(value, list) else value
            for key, value in parameters.items()
        }
        merged[case + "/" + name] = registry.get(method)([group], parameters=given)[0].contiguous()
save_file(merged, sys.argv[2])
"""
SITES = 5
WEIGHTS = (3, 1, 4, 1, 5)
ONES = [1.0] * SITES
CASES: dict[str, tuple[Rule, str, bool, dict[str, Any]]] = {
    "sum": (Sum(scale=0.3), "task_arithmetic", True, {"weight": ONES, "lambda": 0.3}),
    "mean": (Mean(), "linear", False, {"weight": ONES}),
    "weighted-mean": (WeightedMean(), "linear", False, {"weight": list(map(float, WEIGHTS))}),
    "ties": (
        Ties(keep=0.2, scale=0.7),
        "ties",
        True,
        {"weight": ONES, "density": [0.2] * SITES, "lambda": 0.7},
    ),
    "ties-untrimmed": (Ties(keep=1.0), "ties", True, {"weight": ONES, "density": ONES}),
    "dare": (
        Dare(drop=0.0, scale=0.3),
        "dare_linear",
        True,
        {"weight": ONES, "density": ONES, "lambda": 0.3},
    ),
    "dare-ties": (
        DareTies(drop=0.0),
        "dare_ties",
        True,
        {"weight": ONES, "density": ONES, "normalize": True},
    ),
}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"linear": (65, 130), "convolution": (8, 4, 3, 3), "bias": (17,), "large": (300, 301)}
    return {
        name: torch.randn((SITES, *shape), generator=generator) * 1e-2
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Return mergekit's result for every case: CASE/TENSOR."""
    if not PYTHON.exists():
        pytest.skip(
            f"{PYTHON} does not exist: run `make mergekit`, or set POLYCLINIC_MERGEKIT to a python "
            "that has mergekit"
        )
    folder = tmp_path_factory.mktemp("mergekit")
    save_file(tensors(), folder / "in.safetensors")
    cases = {
        name: (method, based, parameters) for name, (_, method, based, parameters) in CASES.items()
    }
    command = [
        str(PYTHON),
        "-c",
        SCRIPT,
        str(folder / "in.safetensors"),
        str(folder / "out.safetensors"),
        json.dumps(cases),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_the_same_tensors_give_the_same_merge(case: str, theirs: dict[str, Tensor]) -> None:
    keys = tuple(f"site{number}" for number in range(SITES))
    for name, stack in tensors().items():
        ours = CASES[case][0](
            Layer(name, torch.zeros(stack.shape[1:]), tuple(stack), WEIGHTS, keys)
        )
        assert_close(ours, theirs[f"{case}/{name}"], rtol=1e-5, atol=1e-8)
