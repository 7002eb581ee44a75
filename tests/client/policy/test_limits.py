"""A hospital's own limits: what a coordinator may make its machine do."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import LimitExceeded
from polyclinic.federation.records import Order
from polyclinic.learning.networks.bounded import bounded_network
from polyclinic.system.faults import is_out_of_memory
from polyclinic.system.machine import given_memory, limit_memory
from polyclinic_client.policy import limits
from polyclinic_client.policy.limits import check_limits, fit_cache, open_disk, within_limits
from polyclinic_client.policy.policy import Policy, keep_policy

ORDER = Order("run", "arm", 0, 5, "none", "1", {})


def job(*overrides: str) -> JobConfig:
    config = load_config(overrides)
    return JobConfig(config.model, config.data, config.training)


@pytest.fixture
def memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.parametrize(
    ("policy", "overrides", "option"),
    [
        (Policy(epochs=9), ["training.epochs=2"], "--max-epochs"),
        (Policy(memory_gb=0.001), [], "--max-memory-gb"),
        (Policy(), ["data.patch=[1000000,1000000,1000000]"], "--max-memory-gb"),
        (Policy(), ["training.batch_size=1000000"], "--max-memory-gb"),
        (Policy(), ["training.epochs=1000000"], "--max-epochs"),
    ],
)
def test_an_order_beyond_a_limit_is_refused_with_the_option(
    policy: Policy, overrides: list[str], option: str
) -> None:
    with pytest.raises(LimitExceeded, match=option):
        check_limits(policy, ORDER, job(*overrides))


PLANNED = ["data=planned", "model=dynunet", "training=nnunet", "data.patch=[128,128,128]"]


def test_a_plan_is_compared_with_the_memory_of_the_gpu_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "gpu_memory", lambda: 0.0)
    check_limits(Policy(memory_gb=10.0), ORDER, job(*PLANNED))
    with pytest.raises(LimitExceeded, match=r"about 9\.\d GiB.*8\.0 GiB.*--max-memory-gb"):
        check_limits(Policy(memory_gb=8.0), ORDER, job(*PLANNED))
    monkeypatch.setattr(limits, "gpu_memory", lambda: 24.0 * 2**30)
    check_limits(Policy(memory_gb=4.0), ORDER, job(*PLANNED))
    monkeypatch.setattr(limits, "gpu_memory", lambda: 2.0 * 2**30)
    with pytest.raises(LimitExceeded, match=r"GiB of a GPU.*2\.0 GiB"):
        check_limits(Policy(memory_gb=40.0), ORDER, job(*PLANNED))


def test_an_order_within_the_limits_passes() -> None:
    check_limits(Policy(epochs=5), ORDER, job())


def test_memory_for_prepared_cases_is_never_more_than_allowed() -> None:
    data = job("data.cache_gb=4096").data
    assert fit_cache(Policy(cache_gb=0.5), data).cache_gb == 0.5
    assert fit_cache(Policy(memory_gb=3.0), data).cache_gb == 1.5
    assert fit_cache(Policy(cache_gb=10.0), job("data.cache_gb=1").data).cache_gb == 1.0


def test_a_network_stops_growing_at_its_first_layer_that_is_too_much() -> None:
    built = []

    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number in range(1000):
                self.add_module(str(number), nn.Linear(10, 10))
                built.append(number)

    with pytest.raises(LimitExceeded, match="1,000"), bounded_network(1000, _refuse):
        Growing()
    assert len(built) == 9
    with bounded_network(110, _refuse):
        nn.Linear(10, 10)
    nn.Linear(1000, 1000)  # nothing is counted outside


def test_work_is_ended_after_its_time(tmp_path: Path) -> None:
    keep_policy(tmp_path, hours=0.2 / 3600)
    began = time.monotonic()
    with pytest.raises(LimitExceeded, match="--max-hours"), within_limits(tmp_path):
        while time.monotonic() - began < 30:
            torch.zeros(10).sum()
    assert time.monotonic() - began < 10


def test_work_without_memory_ends_with_the_limit(tmp_path: Path, memory: None) -> None:
    keep_policy(tmp_path, memory_gb=4.0)
    limit_memory(4 * 2**30)
    with pytest.raises(LimitExceeded, match="--max-memory-gb"), within_limits(tmp_path):
        torch.zeros(2**31)
    with pytest.raises(LimitExceeded, match="--max-memory-gb"), within_limits(tmp_path):
        bytearray(2**33)


def test_other_faults_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), within_limits(tmp_path):
        raise RuntimeError("shapes do not fit")
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_machine_has_memory(tmp_path: Path) -> None:
    total = given_memory(tmp_path)
    (tmp_path / "memory.max").write_text("max")
    assert given_memory(tmp_path) == total > 2**20
    (tmp_path / "memory.max").write_text("1048576")
    assert given_memory(tmp_path) == 2**20


def _refuse(asked: str) -> LimitExceeded:
    return LimitExceeded(asked, "less", "")


def test_the_disk_for_prepared_cases_is_bounded_and_can_be_refused(tmp_path: Path) -> None:
    assert open_disk(Policy(disk_gb=0.0), tmp_path / "cache") is None
    bounded = open_disk(Policy(disk_gb=0.25), tmp_path / "cache")
    assert bounded is not None and bounded.most_bytes == 2**28
    free = open_disk(Policy(), tmp_path / "cache")
    assert free is not None and 0 < free.most_bytes < 2**60
    assert not (tmp_path / "cache").exists()


def test_steps_count_as_passes_over_the_hospitals_own_cases() -> None:
    asked = job("training.steps=100", "training.batch_size=2")  # 200 samples, five times
    check_limits(Policy(epochs=10), ORDER, asked, cases=100)
    with pytest.raises(LimitExceeded, match="--max-epochs"):
        check_limits(Policy(epochs=9), ORDER, asked, cases=100)
