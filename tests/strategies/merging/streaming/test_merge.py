import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.store.contribution import Contribution, TensorFile, write_contribution
from polyclinic.store.refusals import ContributionDamaged
from polyclinic_strategies.merging.arithmetic.layer import Layer, Rule
from polyclinic_strategies.merging.intake.blame import blamed
from polyclinic_strategies.merging.rules.dare import Dare
from polyclinic_strategies.merging.rules.dare_ties import DareTies
from polyclinic_strategies.merging.rules.fisher import Fisher
from polyclinic_strategies.merging.rules.iso_c import IsoC
from polyclinic_strategies.merging.rules.krum import Krum
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.multi_krum import MultiKrum
from polyclinic_strategies.merging.rules.regmean import RegMean
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.ties import Ties
from polyclinic_strategies.merging.rules.trimmed_mean import TrimmedMean
from polyclinic_strategies.merging.rules.tsv_m import TsvM
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean
from polyclinic_strategies.merging.rules.wudi import Wudi
from polyclinic_strategies.merging.streaming.merge import STATISTICS_RULE, merge, merge_to_file
from polyclinic_strategies.merging.streaming.streams import StoredState

SHAPES = {
    "conv.weight": (4, 2, 3, 3),
    "conv.bias": (4,),
    "norm.running_mean": (4,),
    "norm.running_var": (4,),
    "head.weight": (3, 4),
}
SITES = ("delta", "alpha", "echo", "bravo", "charlie")
WEIGHTS = dict(zip(SITES, (30, 10, 50, 20, 40), strict=True))
RULES: list[Rule] = [
    Sum(),
    Mean(),
    WeightedMean(),
    Ties(),
    Dare(),
    DareTies(),
    Fisher(),
    RegMean(),
    IsoC(),
    TsvM(),
    Wudi(),
    TrimmedMean(),
    Krum(),
    MultiKrum(),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


class InMemory:
    """A contribution that counts how much of it is in use at once."""

    def __init__(
        self, vectors: Mapping[str, Tensor], statistics: Mapping[str, Tensor], log: list[str]
    ) -> None:
        self._vectors, self._statistics, self._log = vectors, statistics, log
        self.statistics = list(statistics)

    def task_vector(self, name: str) -> Tensor:
        self._log.append(name)
        return self._vectors[name]

    def statistic(self, name: str) -> Tensor:
        self._log.append(name)
        return self._statistics[name]


def base() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}
    return state | {
        "norm.num_batches_tracked": torch.tensor(7),
        "half.weight": torch.rand(2, generator=generator).to(torch.bfloat16),
    }


def vectors_of(site: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SITES.index(site) + 1)
    shapes = {**SHAPES, "half.weight": (2,)}
    return {name: torch.randn(shape, generator=generator) * 1e-2 for name, shape in shapes.items()}


def statistics_of(site: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SITES.index(site) + 100)
    inputs = {"conv.weight": 18, "head.weight": 4}
    grams = {
        f"gram/{name}": torch.randn(50, count, generator=generator)
        for name, count in inputs.items()
    }
    fisher = {
        f"fisher/{name}": torch.rand(SHAPES[name], generator=generator)
        for name in ("conv.weight", "conv.bias")
    }
    return {name: rows.T @ rows / 50 for name, rows in grams.items()} | fisher


def in_memory(sites: tuple[str, ...], log: list[str] | None = None) -> dict[str, InMemory]:
    return {
        site: InMemory(vectors_of(site), statistics_of(site), [] if log is None else log)
        for site in sites
    }


def written(folder: Path, site: str) -> Path:
    provenance = Contribution(site, "base", "demo", WEIGHTS[site], {}, 0.0, "0")
    return write_contribution(folder, provenance, vectors_of(site), statistics_of(site))


@every_rule
def test_arrival_does_not_change_a_bit(rule: Rule) -> None:
    first = merge(base(), in_memory(SITES), WEIGHTS, rule)
    second = merge(base(), in_memory(tuple(sorted(SITES))), dict(sorted(WEIGHTS.items())), rule)
    assert list(first) == list(base())
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert tensor.dtype == base()[name].dtype


@every_rule
def test_streaming_from_files_is_the_same_as_all_at_once(rule: Rule, tmp_path: Path) -> None:
    save_state(base(), tmp_path / "base.safetensors", {"polyclinic": "{}"})
    paths = [written(tmp_path, site) for site in SITES]
    seen: list[str] = []
    merge_to_file(
        tmp_path / "base.safetensors",
        paths,
        rule,
        tmp_path / "out" / "merged.safetensors",
        on_layer=seen.append,
    )
    merged, metadata = load_state(tmp_path / "out" / "merged.safetensors")
    assert metadata == {"polyclinic": "{}"}
    assert sorted(seen) == sorted(base())
    wanted = merge(base(), in_memory(SITES), WEIGHTS, rule)
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[name], wanted[name]) for name in wanted)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merged.safetensors"]


@every_rule
def test_one_layer_at_a_time(rule: Rule) -> None:
    log: list[str] = []
    done: list[int] = []
    merge(base(), in_memory(SITES, log), WEIGHTS, rule, on_layer=lambda _: done.append(len(log)))
    passes = 2 if rule.global_statistics else 1
    # four parameters, two running statistics
    assert len([name for name in log if "/" not in name]) == 5 * (4 * passes + 2)
    # whatever came before the first layer was the first pass
    starts = [done[0] - 5 * (1 + len(rule.needs)), *done]
    for before, after in itertools.pairwise(starts):
        assert len({name.partition("/")[2] or name for name in log[before:after]}) <= 1


def test_rules_see_what_the_files_hold_without_a_copy() -> None:
    found = []

    class Watch(Mean):
        def __call__(self, layer: Layer) -> Tensor:
            found.append([row.data_ptr() for row in layer.rows])
            return super().__call__(layer)

    vectors = {site: torch.ones(8, 8) for site in "abc"}
    files = {site: InMemory({"weight": vector}, {}, []) for site, vector in vectors.items()}
    merge({"weight": torch.zeros(8, 8)}, files, dict.fromkeys("abc", 1), Watch())
    assert found == [[vector.data_ptr() for vector in vectors.values()]]


@pytest.mark.parametrize(
    "rule", [each for each in RULES if not getattr(each, "robust", False)], ids=str
)
def test_running_statistics_take_the_weighted_mean_whatever_the_rule(rule: Rule) -> None:
    merged = merge(base(), in_memory(SITES), WEIGHTS, rule)
    for name in ("norm.running_mean", "norm.running_var"):
        moved = (
            sum(
                (WEIGHTS[site] * vectors_of(site)[name].double() for site in SITES),
                torch.zeros(4).double(),
            )
            / 150
        )
        assert_close(merged[name], (base()[name] + moved).float(), rtol=1e-6, atol=1e-9)
    assert torch.equal(merged["norm.num_batches_tracked"], torch.tensor(7))
    assert STATISTICS_RULE.scale == 1.0


@pytest.mark.parametrize("rule", [TrimmedMean(scale=0.3), Krum(scale=0.3), MultiKrum(scale=0.3)])
def test_a_robust_rule_bears_running_statistics_of_a_liar(rule: Rule) -> None:
    sent = {site: dict(vectors_of(site)) for site in SITES}
    honest = torch.stack([sent[site]["norm.running_var"] for site in SITES if site != "echo"])
    sent["echo"] |= {name: torch.full(shape, 1e4) for name, shape in SHAPES.items()}
    files = {site: InMemory(vectors, {}, []) for site, vectors in sent.items()}
    moved = merge(base(), files, WEIGHTS, rule)["norm.running_var"] - base()["norm.running_var"]

    assert bool((moved >= honest.min(0).values - 1e-6).all())
    assert bool((moved <= honest.max(0).values + 1e-6).all())
    assert float(moved.abs().max()) > 0.0


class Picky:
    """A rule of another package that cannot bear one number."""

    needs: frozenset[str] = frozenset()
    global_statistics: frozenset[str] = frozenset()
    scale = 1.0

    def __init__(self, sites: int = 0, shape: tuple[int, ...] | None = None) -> None:
        self.sites, self.shape = sites, shape

    def __call__(self, layer: Layer) -> Tensor:
        stacked = layer.stacked()
        if bool((stacked > 50).any()) or len(layer.keys) < self.sites:
            raise ValueError("I did not expect that")
        return stacked.mean(0) if self.shape is None else torch.zeros(self.shape)


def picked(rule: Rule, *values: float) -> Tensor:
    names = "abcdef"[: len(values)]
    files = {
        site: InMemory({"w": torch.full((2,), value)}, {}, [])
        for site, value in zip(names, values, strict=True)
    }
    return merge({"w": torch.zeros(2)}, files, dict.fromkeys(names, 1), rule)["w"]


def test_a_rule_that_fails_because_of_one_contribution_names_it() -> None:
    assert picked(Picky(), 1.0, 2.0, 3.0).tolist() == [2.0, 2.0]
    with pytest.raises(ConfigError, match=r"^b: .*Picky.*at w.*I did not expect") as caught:
        picked(Picky(), 1.0, 100.0, 3.0)
    assert blamed(caught.value) == "b"


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (Picky(), (100.0, 100.0, 1.0)),  # two at fault
        (Picky(), (100.0, 1.0)),  # of two nobody knows
        (Picky(sites=9), (1.0, 2.0, 3.0)),  # the rule's own
        (Picky(shape=(1,)), (1.0, 2.0, 3.0)),
    ],
)
def test_a_rule_that_fails_by_itself_blames_nobody(rule: Rule, values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"The rule Picky fails at w") as caught:
        picked(rule, *values)
    assert blamed(caught.value) == ""


def test_a_variance_stays_at_or_above_zero() -> None:
    files = {"a": InMemory({"running_var": torch.tensor([-2.0, 1.0])}, {}, [])}
    assert merge({"running_var": torch.ones(2)}, files, {"a": 1}, Sum())[
        "running_var"
    ].tolist() == [0.0, 2.0]


def test_running_statistics_that_do_not_fit_are_named() -> None:
    files = {
        site: InMemory({"norm.running_var": torch.full((2,), size)}, {}, [])
        for site, size in (("a", 1.0), ("b", 1e9))
    }
    with pytest.raises(
        ConfigError,
        match=r"^norm.running_var: .* of b\. Withdraw",
    ):
        merge({"norm.running_var": torch.ones(2)}, files, {"a": 1, "b": 10_000}, Sum())


def test_without_sites_the_model_is_the_base() -> None:
    for rule in RULES:
        merged = merge(base(), {}, {}, rule)
        assert all(torch.equal(merged[name], tensor) for name, tensor in base().items())


def test_distances_are_those_of_the_whole_vectors() -> None:
    found = []

    class Watch(Krum):
        def __call__(self, layer: Layer) -> Tensor:
            found.append(layer.statistics["distances"])
            return super().__call__(layer)

    merge(base(), in_memory(SITES), WEIGHTS, Watch())
    names = ["conv.weight", "conv.bias", "head.weight", "half.weight"]
    flat = torch.stack(
        [torch.cat([vectors_of(site)[name].flatten() for name in names]) for site in sorted(SITES)]
    ).double()
    assert_close(found[0], (flat[:, None] - flat[None]).square().sum(-1), rtol=1e-9, atol=1e-12)
    assert float(found[0].diagonal().max()) < 1e-15


@pytest.mark.parametrize(("rule", "kind"), [(RegMean(), "gram"), (Fisher(), "fisher")])
def test_a_contribution_without_the_statistics_is_named_with_the_remedy(
    rule: Rule, kind: str
) -> None:
    files = in_memory(SITES)
    files["bravo"] = InMemory(vectors_of("bravo"), {}, [])
    with pytest.raises(ConfigError, match=rf"^bravo: .*strategy.statistics=\[{kind}\]"):
        merge(base(), files, WEIGHTS, rule)
    partial = {
        name: tensor
        for name, tensor in statistics_of("bravo").items()
        if "conv.weight" not in name or not name.startswith(kind)
    }
    files["bravo"] = InMemory(vectors_of("bravo"), partial | {f"{kind}/other": torch.zeros(1)}, [])
    with pytest.raises(ConfigError, match=rf"^bravo: .*{kind}/conv.weight"):
        merge(base(), files, WEIGHTS, rule)


def test_another_network_s_contribution_is_named() -> None:
    files = in_memory(("alpha",))
    files["alpha"]._vectors = {
        name: tensor for name, tensor in vectors_of("alpha").items() if name != "conv.bias"
    }
    with pytest.raises(ModelInvalid, match=r"^alpha: .* conv\.bias"):
        merge(base(), files, WEIGHTS, Mean())
    files["alpha"]._vectors = vectors_of("alpha") | {"conv.bias": torch.zeros(5)}
    with pytest.raises(ModelInvalid, match=r"^alpha: conv\.bias .*\(5,\).*\(4,\)"):
        merge(base(), files, WEIGHTS, Mean())


def test_files_that_cannot_be_merged_leave_nothing_behind(tmp_path: Path) -> None:
    save_state(base(), tmp_path / "base.safetensors", {})
    path, out = written(tmp_path, "alpha"), tmp_path / "merged.safetensors"
    with pytest.raises(ConfigError, match="same site"):
        merge_to_file(tmp_path / "base.safetensors", [path, path], Mean(), out)
    with pytest.raises(ContributionDamaged):
        merge_to_file(tmp_path / "base.safetensors", [tmp_path / "base.safetensors"], Mean(), out)
    save_state({"other": torch.zeros(2)}, tmp_path / "another.safetensors", {})
    with pytest.raises(ModelInvalid, match=r"^alpha: .*\bother\b"):
        merge_to_file(tmp_path / "another.safetensors", [path], Mean(), out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_tensor_files_and_stored_models_merge_as_they_are(tmp_path: Path) -> None:
    save_state(base(), tmp_path / "base.safetensors", {})
    with (
        StoredState(tmp_path / "base.safetensors") as stored,
        TensorFile(written(tmp_path, "echo")) as file,
    ):
        merged = merge(stored, {"echo": file}, {"echo": 3}, Mean())
    assert torch.equal(
        merged["conv.bias"],
        base()["conv.bias"] + vectors_of("echo")["conv.bias"].mul(2**40).round() / 2**40,
    )
