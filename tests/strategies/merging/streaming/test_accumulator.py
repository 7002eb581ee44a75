import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.state_dict import save_state
from polyclinic.store.contribution import Contribution, TensorFile, write_contribution
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean
from polyclinic_strategies.merging.streaming.accumulator import Accumulator, AdditiveRule
from polyclinic_strategies.merging.streaming.merge import merge

SHAPES = {
    "body.weight": (300, 301),
    "body.bias": (),
    "norm.running_mean": (5,),
    "norm.running_var": (5,),
}
every_rule = pytest.mark.parametrize(
    "rule", [Sum(), Mean(), WeightedMean(scale=0.7), Mean(fraction_bits=30)], ids=str
)


def base() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()} | {
        "steps": torch.tensor(3)
    }


def write(folder: Path, number: int, size: float = 1e-2) -> tuple[str, int, TensorFile]:
    """Digest, weight and the opened file; every site's values are of another magnitude."""
    generator = torch.Generator().manual_seed(number)
    vectors = {
        name: torch.randn(shape, generator=generator) * size * 10 ** (number % 5 - 2)
        for name, shape in SHAPES.items()
    }
    path = write_contribution(
        folder,
        Contribution(f"site{number}", "base", "demo", 10 + number, {}, 0.0, "0"),
        vectors,
        {},
    )
    return path.stem, 10 + number, TensorFile(path)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


@every_rule
def test_a_sum_gives_the_bits_of_a_merge_in_any_order(rule: AdditiveRule, tmp_path: Path) -> None:
    parts = [write(tmp_path, number) for number in range(4)]
    files = {file.contribution.site: file for _, _, file in parts}
    wanted = merge(
        base(), files, {file.contribution.site: weight for _, weight, file in parts}, rule
    )
    kept = set()
    for number, order in enumerate(itertools.islice(itertools.permutations(parts), 0, 24, 5)):
        running = Accumulator.create(tmp_path / f"{number}.safetensors", base(), rule)
        for digest, weight, file in order:
            running = running.add(file, digest, weight)
        assert same(running.result(base()), wanted)
        kept.add(running.path.read_bytes())
    assert len(kept) == 1


@every_rule
def test_taking_out_undoes_putting_in(rule: AdditiveRule, tmp_path: Path) -> None:
    parts = [write(tmp_path, number) for number in range(4)]
    path = tmp_path / "sum.safetensors"
    running = Accumulator.create(path, base(), rule)
    states = [path.read_bytes()]
    for digest, weight, file in parts:
        running = running.add(file, digest, weight)
        states.append(path.read_bytes())
    for (digest, _, file), before in reversed(list(zip(parts, states[:-1], strict=True))):
        running = running.remove(file, digest)
        assert path.read_bytes() == before
    assert same(running.result(base()), base())


def test_a_site_that_left_was_never_there(tmp_path: Path) -> None:
    parts = [write(tmp_path, number) for number in range(3)]
    running = Accumulator.create(tmp_path / "a.safetensors", base(), WeightedMean())
    for digest, weight, file in parts:
        running = running.add(file, digest, weight)
    running = running.remove(parts[0][2], parts[0][0])
    never = Accumulator.create(tmp_path / "b.safetensors", base(), WeightedMean())
    for digest, weight, file in parts[1:]:
        never = never.add(file, digest, weight)
    assert running.path.read_bytes() == never.path.read_bytes()


def test_a_sum_outlives_its_process(tmp_path: Path) -> None:
    digest, weight, file = write(tmp_path, 1)
    path = tmp_path / "sum.safetensors"
    running = Accumulator.create(path, base(), WeightedMean(scale=0.5)).add(file, digest, weight)
    opened = Accumulator.open(path)
    assert opened == running
    assert list(opened.members) == [digest]
    assert same(opened.result(base()), running.result(base()))


def test_a_member_is_put_in_once_and_taken_out_once(tmp_path: Path) -> None:
    digest, weight, file = write(tmp_path, 1)
    empty = Accumulator.create(tmp_path / "sum.safetensors", base(), Mean())
    with pytest.raises(ValueError, match="not in the sum"):
        empty.remove(file, digest)
    with pytest.raises(ValueError, match="0 examples"):
        empty.add(file, digest, 0)
    running = empty.add(file, digest, weight)
    with pytest.raises(ValueError, match="in the sum already"):
        running.add(file, digest, weight)


def test_a_sum_that_does_not_fit_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sum.safetensors"
    digest, weight, file = write(tmp_path, 1)
    running = Accumulator.create(path, base(), Mean()).add(file, digest, weight)
    before = path.read_bytes()
    large_digest, large_weight, large = write(tmp_path, 2, size=1e7)
    with pytest.raises(
        ConfigError,
        match=r"fraction_bits=\d\d \(now 40\)",
    ):
        running.add(large, large_digest, large_weight)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.partial"))


def test_another_network_s_contribution_is_refused(tmp_path: Path) -> None:
    digest, weight, file = write(tmp_path, 1)
    running = Accumulator.create(tmp_path / "sum.safetensors", {"other": torch.zeros(2)}, Mean())
    with pytest.raises(ModelInvalid, match=r"\bother\b"):
        running.add(file, digest, weight)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"rule": "Ties", "parameters": {}, "members": {}},
        {"rule": "Sum", "parameters": {"x": 1}, "members": {}},
    ],
)
def test_a_file_that_is_no_sum_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    path = tmp_path / "sum.safetensors"
    save_state({"a": torch.zeros(1, dtype=torch.int64)}, path, {"polyclinic": json.dumps(content)})
    with pytest.raises(ModelInvalid, match="Delete it"):
        Accumulator.open(path)
