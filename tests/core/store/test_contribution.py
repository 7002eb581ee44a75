import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from polyclinic.store.contribution import (
    Contribution,
    TensorFile,
    read_contribution,
    write_contribution,
)
from polyclinic.store.refusals import (
    BaseMismatch,
    ContributionDamaged,
    ContributionRefused,
    ContributionTooLarge,
    NormTooLarge,
    NotFinite,
    ShapeRefused,
    SiteMismatch,
    StaleBase,
    TaskMismatch,
    TensorsExtra,
    TensorsMissing,
    TypeRefused,
    UnknownSite,
)
from polyclinic.store.requirements import Requirements, check_contribution, staleness_of
from polyclinic.system.durable import file_digest

LAYOUT: dict[str, tuple[int, ...]] = {"conv.weight": (2, 1, 3), "conv.bias": (2,), "scale": ()}
BASE, BEFORE, LONG_AGO = "b" * 64, "a" * 64, "9" * 64
GIVEN = Contribution("north", BASE, "blood", 40, {"score": 0.5}, 1_700_000_000.25, "0.1.0")
ASKED = Requirements(
    BASE, LAYOUT, "blood", frozenset({"north", "south"}), 10**6, 10.0, {BEFORE: 1, LONG_AGO: 2}, 1
)


def vector(**changes: Tensor) -> dict[str, Tensor]:
    made = {name: torch.full(shape, 2.0) for name, shape in LAYOUT.items()}
    return made | {name.replace("__", "."): tensor for name, tensor in changes.items()}


def handed(
    folder: Path,
    given: Contribution = GIVEN,
    statistics: Mapping[str, Tensor] | None = None,
    **changes: Tensor,
) -> Path:
    return write_contribution(
        folder, given, vector(**changes), dict(statistics or {"gram/conv.weight": torch.eye(3)})
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = handed(tmp_path)
    assert path.name == f"{file_digest(path)}.safetensors"
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert read_contribution(path) == GIVEN
    with TensorFile(path) as file:
        assert file.names == ["conv.bias", "conv.weight", "scale"]
        assert file.statistics == ["gram/conv.weight"]
        assert file.shape("conv.weight") == (2, 1, 3)
        assert torch.equal(file.task_vector("scale"), torch.tensor(2.0))
        assert torch.equal(file.statistic("gram/conv.weight"), torch.eye(3))
        assert file.contribution == GIVEN


def test_the_same_contribution_is_the_same_bytes(tmp_path: Path) -> None:
    first = handed(tmp_path / "a")
    other_order = dict(reversed(vector().items()))
    second = write_contribution(
        tmp_path / "b", GIVEN, other_order, {"gram/conv.weight": torch.eye(3)}
    )
    assert first.read_bytes() == second.read_bytes()
    assert handed(tmp_path / "a", replace(GIVEN, num_examples=41)) != first


def test_a_sound_contribution_is_accepted_with_its_norm(tmp_path: Path) -> None:
    contribution, norm = check_contribution(handed(tmp_path), "north", ASKED, [])
    assert contribution == GIVEN
    assert norm == pytest.approx(math.sqrt(9 * 4.0))


def test_the_norm_of_large_numbers_does_not_overflow(tmp_path: Path) -> None:
    path = handed(tmp_path, conv__weight=torch.full((2, 1, 3), 1e30))
    assert check_contribution(path, "north", ASKED, [])[1] == pytest.approx(math.sqrt(6) * 1e30)


def test_a_base_within_the_allowed_staleness_is_accepted(tmp_path: Path) -> None:
    contribution, _ = check_contribution(
        handed(tmp_path, replace(GIVEN, base=BEFORE)), "north", ASKED, []
    )
    assert [
        staleness_of(base, ASKED) for base in (BASE, contribution.base, LONG_AGO, "0" * 64)
    ] == [0, 1, 2, None]


@pytest.mark.parametrize("norms", [[0.1, 0.1], [0.0, 0.0, 0.0], [0.1, 2.0, 3.0]])
def test_the_norm_is_compared_with_a_median_of_at_least_three(
    norms: list[float], tmp_path: Path
) -> None:
    check_contribution(handed(tmp_path), "north", ASKED, norms)


def test_without_a_ratio_no_norm_is_too_large(tmp_path: Path) -> None:
    check_contribution(
        handed(tmp_path), "north", replace(ASKED, max_norm_ratio=0.0), [0.1, 0.1, 0.1]
    )


def test_anybody_may_contribute_where_no_sites_are_named(tmp_path: Path) -> None:
    check_contribution(
        handed(tmp_path, replace(GIVEN, site="new")), "new", replace(ASKED, sites=None), []
    )


REFUSED: dict[str, tuple[type[ContributionRefused], Callable[[Path], Path], Requirements, str]] = {
    "another base": (
        BaseMismatch,
        lambda f: handed(f, replace(GIVEN, base="0" * 64)),
        ASKED,
        "000000000000",
    ),
    "a base of long ago": (
        StaleBase,
        lambda f: handed(f, replace(GIVEN, base=LONG_AGO)),
        ASKED,
        "2 times",
    ),
    "a tensor too few": (
        TensorsMissing,
        lambda f: write_contribution(f, GIVEN, {"scale": torch.tensor(1.0)}, {}),
        ASKED,
        r"conv\.bias, conv\.weight",
    ),
    "a tensor too many": (
        TensorsExtra,
        lambda f: handed(f, more=torch.zeros(1)),
        ASKED,
        r"\bmore\b",
    ),
    "another shape": (
        ShapeRefused,
        lambda f: handed(f, conv__bias=torch.zeros(3)),
        ASKED,
        r"\(3,\).*\(2,\)",
    ),
    "half precision": (
        TypeRefused,
        lambda f: handed(f, conv__bias=torch.zeros(2, dtype=torch.float16)),
        ASKED,
        "F16",
    ),
    "double precision": (
        TypeRefused,
        lambda f: handed(f, conv__bias=torch.zeros(2, dtype=torch.float64)),
        ASKED,
        "F64",
    ),
    "statistics of integers": (
        TypeRefused,
        lambda f: handed(f, statistics={"n": torch.zeros(2, dtype=torch.int64)}),
        ASKED,
        "I64",
    ),
    "NaN": (
        NotFinite,
        lambda f: handed(f, conv__bias=torch.tensor([0.0, math.nan])),
        ASKED,
        "task_vector/conv.bias",
    ),
    "Inf": (
        NotFinite,
        lambda f: handed(f, scale=torch.tensor(-math.inf)),
        ASKED,
        "task_vector/scale",
    ),
    "NaN among statistics": (
        NotFinite,
        lambda f: handed(f, statistics={"gram/x": torch.tensor([math.nan])}),
        ASKED,
        "statistics/gram/x",
    ),
    "a vector 1000 times as long": (
        NormTooLarge,
        lambda f: handed(
            f, **{name.replace(".", "__"): 1000 * tensor for name, tensor in vector().items()}
        ),
        ASKED,
        "10 times",
    ),
    "too many bytes": (
        ContributionTooLarge,
        handed,
        replace(ASKED, max_bytes=100),
        r"\b100\b",
    ),
    "an unknown hospital": (
        UnknownSite,
        handed,
        replace(ASKED, sites=frozenset({"south"})),
        "north",
    ),
    "another hospital's name": (
        SiteMismatch,
        lambda f: handed(f, replace(GIVEN, site="south")),
        ASKED,
        "south",
    ),
    "another task": (
        TaskMismatch,
        lambda f: handed(f, replace(GIVEN, task="brain")),
        ASKED,
        "brain",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_every_refusal_has_its_type(what: str, tmp_path: Path) -> None:
    kind, make, asked, said = REFUSED[what]
    with pytest.raises(kind, match=said) as refused:
        check_contribution(make(tmp_path), "north", asked, [6.0, 6.0, 6.5])
    assert type(refused.value) is kind
    assert refused.value.shareable
    assert refused.value.exit_code == 3
    assert str(refused.value).startswith("north: ")
    assert "\n" not in str(refused.value)


def provenance(**changes: object) -> str:
    found = {
        "site": "north",
        "base": BASE,
        "task": "blood",
        "num_examples": 4,
        "metrics": {},
        "created": 1.0,
        "version": "0.1.0",
    }
    return json.dumps(
        {key: value for key, value in {**found, **changes}.items() if value is not ...}
    )


DAMAGED = {
    "no metadata": None,
    "no JSON": "{",
    "a list": "[]",
    "a field too few": provenance(task=...),
    "a field too many": provenance(other=1),
    "a number for a name": provenance(site=3),
    "an empty name": provenance(site=""),
    "a name with a control character": provenance(site="north\x1b[31m"),
    "an endless name": provenance(site="n" * 1000),
    "no examples": provenance(num_examples=0),
    "a truth for a number": provenance(num_examples=True),
    "a part of an example": provenance(num_examples=1.5),
    "more examples than there can be": provenance(num_examples=2**63),
    "a metric that is NaN": provenance(metrics={"score": math.nan}),
    "a metric that is text": provenance(metrics={"score": "high"}),
    "a metric beyond float64": provenance(metrics={"score": 10**400}),
    "created at infinity": provenance(created=math.inf),
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_provenance_is_checked_field_by_field(what: str, tmp_path: Path) -> None:
    path, text = tmp_path / "x.safetensors", DAMAGED[what]
    save_file(
        {f"task_vector/{name}": tensor for name, tensor in vector().items()},
        path,
        None if text is None else {"polyclinic": text},
    )
    with pytest.raises(ContributionDamaged, match="not a readable contribution"):
        check_contribution(path, "north", ASKED, [])


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_file_is_damaged(cut: int, tmp_path: Path) -> None:
    path = handed(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ContributionDamaged):
        check_contribution(path, "north", ASKED, [])
    with pytest.raises(ContributionDamaged):
        read_contribution(path)


def test_a_tensor_that_is_neither_vector_nor_statistic_is_extra(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {f"task_vector/{name}": tensor for name, tensor in vector().items()}
    save_file({**tensors, "surprise": torch.zeros(1)}, path, {"polyclinic": provenance()})
    with pytest.raises(TensorsExtra, match="surprise"):
        check_contribution(path, "north", ASKED, [])


WIDE: dict[str, tuple[int, ...]] = {"conv.weight": (32, 16, 3), "conv.bias": (32,)}


def wide() -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=made) for name, shape in WIDE.items()}


def test_factors_are_read_as_the_whole_vector(tmp_path: Path) -> None:
    path = write_contribution(tmp_path, GIVEN, wide(), {}, rank=2)
    about, norm = check_contribution(path, "north", replace(ASKED, layout=WIDE), [])
    with TensorFile(path) as file:
        assert file.thin == {"conv.weight"} and file.names == ["conv.bias", "conv.weight"]
        assert file.shape("conv.weight") == (32, 16, 3) and not file.others
        found = {name: file.task_vector(name) for name in file.names}
    assert about == GIVEN
    assert torch.equal(found["conv.bias"], wide()["conv.bias"])
    assert torch.linalg.matrix_rank(found["conv.weight"].flatten(1)) == 2
    assert norm == pytest.approx(math.hypot(*(float(each.norm()) for each in found.values())))


@pytest.mark.parametrize(
    ("tensors", "refusal"),
    [
        ({"task_vector_up/w": (8, 2)}, ContributionDamaged),
        ({"task_vector_up/w": (8, 2), "task_vector_down/w": (3, 4, 3)}, ContributionDamaged),
        ({"task_vector_up/w": (8, 0), "task_vector_down/w": (0, 4, 3)}, ContributionDamaged),
        ({"task_vector_up/w": (8,), "task_vector_down/w": (8, 4)}, ContributionDamaged),
        (
            {"task_vector/w": (8, 4, 3), "task_vector_up/w": (8, 1), "task_vector_down/w": (1, 4)},
            ContributionDamaged,
        ),
        # a small file that would be ten gigabytes
        ({"task_vector_up/w": (50_000, 1), "task_vector_down/w": (1, 50_000)}, ShapeRefused),
        ({"task_vector_up/w": (8, 1), "task_vector_down/w": (1, 4, 3)}, None),
    ],
)
def test_factors_that_do_not_fit_are_refused_before_they_are_multiplied(
    tensors: dict[str, tuple[int, ...]], refusal: type[ContributionRefused] | None, tmp_path: Path
) -> None:
    asked = replace(ASKED, layout={"w": (8, 4, 3)})
    given = write_contribution(tmp_path, GIVEN, {"w": torch.ones(8, 4, 3)}, {})
    with safe_open(given, framework="pt") as file:
        metadata = file.metadata()
    path = tmp_path / "made.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path, metadata)
    if refusal is None:
        check_contribution(path, "north", asked, [])
        return
    with pytest.raises(refusal):
        check_contribution(path, "north", asked, [])


def test_names_that_a_hospital_chose_are_shown_harmlessly(tmp_path: Path) -> None:
    names = {f"\x1b[31m{index}" + "x" * 500: torch.zeros(1) for index in range(50)}
    with pytest.raises(TensorsExtra) as refused:
        check_contribution(
            write_contribution(tmp_path, GIVEN, vector() | names, {}), "north", ASKED, []
        )
    assert "\x1b" not in str(refused.value)
    assert "and 47 more" in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "wrong", [{"metrics": {"score": math.nan}}, {"num_examples": 0}, {"site": ""}]
)
def test_nothing_is_written_that_would_be_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"JSON compliant|its "):
        handed(tmp_path, replace(GIVEN, **wrong))
    assert list(tmp_path.iterdir()) == []
