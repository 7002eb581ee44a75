"""A plan's file: read as it was written, refused when it was changed, used as settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.config.compose import expand_strategies, load_config, load_data
from polyclinic.config.jobs import job_digests, job_settings, load_job
from polyclinic.config.plan_files import LARGEST_BYTES, Plan, named_plan, read_plan, write_plan
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError

SETTINGS: dict[str, Any] = {
    "data.labels": ["background", "left lung", "it's (a) 'quoted' one"],
    "data.patch": [40, 56, 40],
    "data.spacing_mm": [1.0, 1.0, 0.62],
    "data.normalization": ["z_score"],
    "training.batch_size": 9,
    "model.features": 16,
}
NETWORK = ["model=dynunet", "training=nnunet"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "my plan.yaml"
    write_plan(Plan(data="planned", settings=SETTINGS, reasons={"data.patch": "a reason"}), path)
    return path


def test_a_plan_is_read_as_it_was_written(path: Path) -> None:
    plan = read_plan(path)
    assert dict(plan.settings) == SETTINGS and plan.reasons == {"data.patch": "a reason"}
    assert len(plan.digest) == 64
    assert write_plan(plan, path) == plan


def test_its_settings_are_used(path: Path) -> None:
    config = load_config([f"data={path}", *NETWORK])
    assert config.data.labels == tuple(SETTINGS["data.labels"])
    assert config.data.patch == (40, 56, 40) and config.data.spacing_mm == (1.0, 1.0, 0.62)
    assert config.training.batch_size == 9
    assert config.model["features"] == 16 and config.model["patch"] == [40, 56, 40]
    assert config.choices["data"] == "planned"
    assert load_data([f"data={path}"]).patch == (40, 56, 40)


@pytest.mark.parametrize("before", [True, False])
def test_a_persons_own_settings_count_more(path: Path, before: bool) -> None:
    own = ["data.patch=[32,32,32]", "training.batch_size=2"]
    named = [f"data={path}", *NETWORK]
    config = load_config([*own, *named] if before else [*named, *own])
    assert config.data.patch == (32, 32, 32) and config.training.batch_size == 2
    assert config.data.spacing_mm == (1.0, 1.0, 0.62)


def test_another_network_does_without_the_plans_features(path: Path) -> None:
    config = load_config([f"data={path}", "model=segresnet"])
    assert "features" not in config.model and config.data.patch == (40, 56, 40)


def test_expanded_settings_need_the_file_no_more(path: Path) -> None:
    asked = ["strategy=averaging/fedavg,averaging/local", f"data={path}", *NETWORK]
    wanted = load_config([f"data={path}", *NETWORK])
    expanded = expand_strategies(asked)
    path.unlink()
    assert len(expanded) == 2
    for each in expanded:
        found = load_config(each)
        assert (found.data, found.model, found.training.batch_size) == (
            wanted.data,
            wanted.model,
            9,
        )


def test_a_hospital_builds_the_same_job_without_the_file(path: Path) -> None:
    config = load_config([f"data={path}", *NETWORK, "data.labels=[background,lung]"])
    names, settings = job_settings(config)
    path.unlink()
    there = load_job(names, settings)
    assert job_digests(there) == job_digests(JobConfig(config.model, config.data, config.training))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch_size: 9", "batch_size: 8"),
        ("a reason", "another"),
        ("0.62", "0.63"),
        ("digest: ", "digest: 0"),
    ],
)
def test_a_plan_that_was_edited_is_refused_with_the_remedy(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=r"my plan\.yaml.*polyclinic-server plan"):
        load_config([f"data={path}", *NETWORK])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"data",
        b"[1, 2",
        b"\xff\xfe\x00",
        b"data: planned\n",
        b"data: ../planned\nsettings: {}\n",
        b"data: planned\nsettings: {strategy.rule: a}\n",
        b"data: planned\nsettings: {data.x._target_: a}\n",
        b"data: planned\nsettings: {data.patch: [.nan]}\n",
        b"data: planned\nsettings: {data.patch: {a: 1}}\n",
        b"a: &a [1]\nb: *a\n",
        b"a: " + b"[" * 5000,
        b"a: 2020-13-45\n",
        b"x" * (LARGEST_BYTES + 1),
    ],
)
def test_what_is_no_plan_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan\.yaml.*polyclinic-server plan") as caught:
        load_config([f"data={path}"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_config([f"data={tmp_path / 'nothing.yaml'}"])


def test_other_data_name_no_plan() -> None:
    assert named_plan(["data=segmentation", "data.patch=[1,2]", "rounds=3"]) is None
    assert named_plan(["data='a b.yaml'"]) == Path("a b.yaml")


SCALARS = (
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(-1e9, 1e9, allow_nan=False)
    | st.text("abc .,+()/'*&%-_09", max_size=20)
)


@given(st.dictionaries(st.sampled_from(["data.a", "model.b", "training.c"]), SCALARS, min_size=1))
def test_any_settings_survive_the_file_and_the_digest_sees_changes(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    write_plan(Plan(data="planned", settings=settings), path)
    assert dict(read_plan(path).settings) == settings
    tree = yaml.safe_load(path.read_text())
    tree["memory_gb"] = 3.5
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="digest"):
        read_plan(path)
