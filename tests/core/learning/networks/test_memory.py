"""The estimate of a planned network's memory: by hand, against the network itself, monotone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import JobConfig
from polyclinic.learning.networks.dynunet import PlannedUNet
from polyclinic.learning.networks.memory import count_features, estimate_memory_gb, memory_gb


def test_two_stages_are_counted_by_hand() -> None:
    # 8 x 8: stage 0 of 64 voxels: 2 + 3 convolutions of 4 features, 3 classes; stage 1 of 16: 2 x 8
    assert count_features((8, 8), (1, 1), 3, 4, 320) == 64 * (5 * 4 + 3) + 16 * 2 * 8
    assert count_features((8, 8), (1, 1), 3, 4, 320, residual=True) == 64 * (6 * 4 + 3) + 16 * 24
    assert count_features((8, 8), (1, 1), 3, 4, 5) == 64 * 23 + 16 * 2 * 5


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("patch", [(16, 16), (64, 64), (16, 32, 32)])
def test_the_count_is_that_of_the_networks_convolutions(
    patch: tuple[int, ...], residual: bool
) -> None:
    spacing = (1.0,) * 3
    network = PlannedUNet(patch, spacing, 1, 3, 4, 16, residual).train()
    total = 0

    def add(_layer: torch.nn.Module, _given: object, made: torch.Tensor) -> None:
        nonlocal total
        total += made[0].numel()

    for layer in network.modules():
        if "Conv" in type(layer).__name__ and not list(layer.children()):
            layer.register_forward_hook(add)
    network(torch.zeros(1, 1, *patch))
    counted = count_features(patch, spacing[: len(patch)], 3, 4, 16, residual=residual)
    assert counted == pytest.approx(total, rel=0.02)


@settings(max_examples=50)
@given(
    st.lists(st.integers(4, 300), min_size=2, max_size=3),
    st.integers(0, 2),
    st.integers(2, 9),
)
def test_a_larger_image_takes_more(patch: list[int], axis: int, classes: int) -> None:
    spacing = [1.0] * len(patch)
    larger = [2 * size if at == axis else size for at, size in enumerate(patch)]
    counted = count_features(patch, spacing, classes)
    assert 0 < counted <= count_features(larger, spacing, classes)
    assert counted < count_features(patch, spacing, classes + 1)


def test_a_job_is_estimated_if_its_network_is_planned() -> None:
    planned = load_config(["data=planned", "model=dynunet", "data.patch=[128,128,128]"])
    job = JobConfig(planned.model, planned.data, planned.training)
    numbers = count_features((128, 128, 128), (1, 1, 1), 2)
    assert estimate_memory_gb(job) == memory_gb(numbers * planned.training.batch_size, 3)
    assert 5 < estimate_memory_gb(job) < 8  # nnU-Net trains it in 8 GiB
    other = load_config([])
    assert estimate_memory_gb(JobConfig(other.model, other.data, other.training)) == 0.0
