"""The public names: lazy, complete, documented."""

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import polyclinic
from polyclinic.errors import ConfigError, DataError, ModelInvalid, TooFewSubjects, UnknownName
from polyclinic.simulation.result import SimulationResult
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic_strategies.merging.rules.ties import Ties
from tests.core.imaging.test_deformation_analytic import round_trip_error
from tests.core.simulation.small_hospitals import LABELS, SMALL, write_hospitals

STUB = Path(str(polyclinic.__file__)).with_suffix(".pyi")


def test_the_names_are_sorted_and_each_has_a_place() -> None:
    assert polyclinic.__all__ == sorted(polyclinic.__all__)
    assert set(polyclinic.__all__) == set(polyclinic._PLACES)
    assert set(polyclinic.__all__) <= set(dir(polyclinic))


def test_editors_and_type_checkers_see_the_same_names_in_the_same_places() -> None:
    imported = {
        alias.asname: statement.module
        for statement in ast.parse(STUB.read_text()).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert imported == polyclinic._PLACES


@pytest.mark.parametrize("name", polyclinic.__all__)
def test_a_name_is_found_where_it_is_defined_and_says_what_it_is(name: str) -> None:
    found = getattr(polyclinic, name)
    assert (found.__module__, found.__qualname__) == (polyclinic._PLACES[name], name)
    text = inspect.getdoc(found) or ""
    assert text.partition("\n")[0].endswith((".", ":"))
    if not (inspect.isclass(found) and issubclass(found, Exception)):
        compile(example_in(text), name, "exec")


def example_in(text: str) -> str:
    """Find the code under 'Example:', up to the end of its fence."""
    assert "Example:" in text
    fenced = text.partition("Example:")[2].partition("```python\n")[2]
    code, fence, _ = fenced.partition("```")
    assert fence
    return textwrap.dedent(code)


def test_functions_name_arguments_results_and_errors() -> None:
    for name in polyclinic.__all__:
        found = getattr(polyclinic, name)
        if inspect.isfunction(found):
            text = inspect.getdoc(found) or ""
            assert all(f"\n{part}:\n" in text for part in ("Args", "Returns", "Raises")), name
            described = text.partition("Args:")[2].partition("Returns:")[0]
            for argument in inspect.signature(found).parameters:
                assert f"{argument}:" in described, f"{name}: {argument}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="astrolabe"):
        polyclinic.astrolabe  # noqa: B018


def test_importing_the_package_imports_nothing_of_weight() -> None:
    code = "import sys, polyclinic; print(*(n for n in sys.modules if '.' not in n or 'poly' in n))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "polyclinic" in loaded
    heavy = {"torch", "monai", "flwr", "numpy", "hydra", "pydantic", "rich", "grpc"}
    assert not loaded & heavy
    assert {name for name in loaded if name.startswith("polyclinic")} == {"polyclinic"}


# the functions


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("cohort"), "north", "south")


@pytest.fixture(scope="module")
def result(hospitals: list[Path], tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    folder = tmp_path_factory.mktemp("run")
    return polyclinic.simulate(hospitals, *SMALL, rounds=1, folder=folder)


def test_a_model_segments_an_image_on_its_own_grid(
    result: SimulationResult, hospitals: list[Path], tmp_path: Path
) -> None:
    model, case = result.model_file("fedavg"), polyclinic.read_dataset(hospitals[0]).test[0]
    labels = polyclinic.predict(model, case.image[0], out=tmp_path / "labels.nii.gz")
    assert labels.shape == (20, 20, 6) and labels.max() < len(LABELS)
    assert (tmp_path / "labels.nii.gz").is_file()
    again = polyclinic.predict(polyclinic.load_model(model), [str(case.image[0])])
    assert (again == labels).all()
    with pytest.raises(DataError):
        polyclinic.predict(model, tmp_path / "nothing.nii.gz")
    with pytest.raises(ModelInvalid):
        polyclinic.predict(case.image[0], case.image[0])


def test_a_model_is_scored_as_its_hospital_scored_it(
    result: SimulationResult, hospitals: list[Path]
) -> None:
    found = polyclinic.evaluate(result.model_file("fedavg"), hospitals[0])
    assert found.score == result.scores["fedavg"]["north"]
    assert set(found.scores) == set(LABELS[1:])
    trained = polyclinic.evaluate(result.model_file("fedavg"), hospitals[0], "training")
    assert trained.num_examples == 2


def test_a_folder_is_described_without_labels(
    result: SimulationResult, hospitals: list[Path]
) -> None:
    found = polyclinic.describe(hospitals[0], ["histogram"], *SMALL)
    assert found["histogram"].sum().item() == pytest.approx(1.0, abs=1e-5)
    model = result.model_file("fedavg")
    deep = polyclinic.describe(hospitals[0], ["channel_gaussians"], model=model)
    assert deep["channel_gaussians"].norm().item() <= 1 + 1e-5
    with pytest.raises(ConfigError, match="model"):
        polyclinic.describe(hospitals[0], ["channel_gaussians"], *SMALL)
    with pytest.raises(TooFewSubjects):
        polyclinic.describe(hospitals[0], ["histogram"], *SMALL, min_subjects=5)
    with pytest.raises(UnknownName):
        polyclinic.describe(hospitals[0], ["histagram"], *SMALL)


def test_task_vectors_are_merged_by_name_and_by_rule() -> None:
    vectors = {
        "a": {"w": torch.tensor([2.0, -1.0])},
        "b": {"w": torch.tensor([4.0, 3.0])},
        "c": {"w": torch.tensor([3.0, 4.0])},
    }
    assert polyclinic.merge(vectors)["w"].tolist() == [3.0, 2.0]
    half = polyclinic.merge(vectors, "mean", scale=0.5, base={"w": torch.tensor([1.0, 1.0])})
    assert half["w"].tolist() == [2.5, 2.0]
    weighed = polyclinic.merge(vectors, "weighted_mean", weights={"a": 2, "b": 1, "c": 1})
    assert weighed["w"].tolist() == [2.75, 1.25]
    elected = polyclinic.merge(vectors, Ties(keep=1.0))["w"].tolist()
    assert elected == [3.0, 3.5]  # by hand: the sign of the sum is +, so -1 does not count
    assert polyclinic.merge(dict(reversed(vectors.items())))["w"].tolist() == [3.0, 2.0]


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    one = {"w": torch.zeros(2)}
    with pytest.raises(ConfigError):
        polyclinic.merge({})
    with pytest.raises(UnknownName):
        polyclinic.merge({"a": one}, "tias")
    with pytest.raises(ConfigError):
        polyclinic.merge({"a": one}, "ties", keep=2.0)
    with pytest.raises(ConfigError):
        polyclinic.merge({"a": one}, Ties(), keep=0.5)
    with pytest.raises(ModelInvalid):
        polyclinic.merge({"a": one, "b": {"w": torch.zeros(3)}})
    with pytest.raises(ConfigError, match="gram"):
        polyclinic.merge({"a": one, "b": one}, "regmean")


def test_files_of_contributions_are_merged_with_their_examples(tmp_path: Path) -> None:
    files = {}
    for site, value, examples in (("a", 1.0, 3), ("b", 5.0, 1)):
        given = Contribution(site, "0" * 64, "task", examples, {}, 1.0, "0.1.0")
        files[site] = write_contribution(tmp_path, given, {"w": torch.tensor([value])}, {})
    assert polyclinic.merge(files, "weighted_mean")["w"].tolist() == [2.0]
    assert polyclinic.merge(files)["w"].tolist() == [3.0]


def test_a_key_decides_a_deformation_that_can_be_undone() -> None:
    image = torch.rand(1, 24, 20, 16, generator=torch.Generator().manual_seed(0))
    one, same = (polyclinic.warp(image, 5, spacing_mm=4.0) for _ in range(2))
    other = polyclinic.warp(image, 6, spacing_mm=4.0)
    assert one.image.shape == image.shape and one.ddf.shape == (3, 24, 20, 16)
    assert torch.equal(one.image, same.image) and not torch.equal(one.image, other.image)
    error = round_trip_error(one.ddf[None], one.inverse[None])[0, 4:-4, 4:-4, 4:-4]
    assert error.mean() < 0.1  # voxels
    moved_mm = 4.0 * one.ddf.square().sum(0).mean().sqrt()
    assert 3.0 < moved_mm < 7.0
    free = polyclinic.warp(image, spacing_mm=4.0)
    assert not torch.equal(free.image, one.image)
    for shape, spacing in (((24, 20, 16), 4.0), ((1, 24, 20, 16), 0.0)):
        with pytest.raises(ValueError, match="shape"):
            polyclinic.warp(torch.zeros(shape), 5, spacing_mm=spacing)
