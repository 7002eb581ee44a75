"""A hospital's part: the release policy, repeated questions, limits of memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic.config.compose import load_config
from polyclinic.config.jobs import job_digests, job_settings
from polyclinic.config.release import Release
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError, LimitExceeded, TooFewSubjects, UnknownName
from polyclinic.federation.records import Order
from polyclinic_client.policy import limits
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.site import Site
from polyclinic_strategies.planning.fingerprint import NAME
from tests.strategies.planning.folders import LABELS, Case, write_site

LIGHT = ("model=dynunet", "model.features=4", "model.most_features=4", "data=segmentation")
DEFAULT = Release()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(
        tmp_path_factory.mktemp("data") / "a", [Case(value=5.0 + n) for n in range(4)]
    )


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Site:
    return Site("a", data, tmp_path)


def order(*settings: str) -> Order:
    config = load_config([*LIGHT, f"data.labels=[{','.join(LABELS)}]", *settings])
    names, changed = job_settings(config)
    digests = job_digests(JobConfig(config.model, config.data, config.training))
    return Order("run", "arm", 0, 1, "none", "1", names, changed, digests, method="planning")


def test_a_hospital_is_ready_without_reading_an_image(data: Path, tmp_path: Path) -> None:
    site = Site("a", data, tmp_path)
    assert site.greet(order()).refusal == ""
    assert "labels" in site.greet(order("data.labels=[background,other]")).refusal


def test_the_stricter_policy_counts(site: Site) -> None:
    means, subjects = site.describe(order(), [NAME], DEFAULT, None)
    assert subjects == 4 and all(mean.ndim == 1 for mean in means.values())
    with pytest.raises(TooFewSubjects):
        site.describe(order(), [NAME], Release(min_subjects=5), None)
    keep_policy(site.state, min_subjects=6)
    with pytest.raises(TooFewSubjects):
        site.describe(order(), [NAME], DEFAULT, None)
    keep_policy(site.state, min_subjects=1, noise_multiplier=0.5)
    with pytest.raises(ConfigError, match="noise"):
        site.describe(order(), [NAME], DEFAULT, None)


def test_the_same_question_gets_the_answer_that_it_got(site: Site) -> None:
    keep_policy(site.state, releases=1)
    first, _ = site.describe(order(), [NAME], DEFAULT, None)
    again, _ = site.describe(replace(order(), run="another"), [NAME], DEFAULT, None)
    assert all((first[name] == again[name]).all() for name in first)
    with pytest.raises(LimitExceeded, match="--max-releases"):
        site.describe(order("data.orientation=LPS"), [NAME], DEFAULT, None)


def test_it_answers_nothing_else(site: Site) -> None:
    with pytest.raises(UnknownName, match=NAME):
        site.describe(order(), ["histogram"], DEFAULT, None)


def test_a_plan_beyond_the_memory_is_refused_before_training(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ("model.features=32", "model.most_features=320", "training=nnunet")
    planned = order(*network, "data.patch=[128,128,128]")
    monkeypatch.setattr(limits, "gpu_memory", lambda: 0.0)
    keep_policy(site.state, memory_gb=4.0)
    refusal = site.greet(replace(planned, method="")).refusal
    assert "9." in refusal and "GiB" in refusal and "--max-memory-gb" in refusal
    keep_policy(site.state, memory_gb=10.0)
    assert "GiB" not in site.greet(planned).refusal
