"""Settings as people write them, whatever characters are in their values."""

import random

import pytest

from polyclinic.config.compose import load_config
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.config.overrides import read_override
from polyclinic.errors import ConfigError, UnknownName


@pytest.mark.parametrize(
    "path",
    [
        "/data/run=3/m",
        "/daten/übung/m",
        "/data/a (1)/m",
        "/data/[1]/m",
        "/data/{a}",
        "/data/Crohn's/m",
        "/data/a,b",
        "/data/a&b#c;d",
        "/data/50%/m!",
        "C:\\data\\",
        "/data/a\\'b",
        "/data/plain-1.2_3",
    ],
)
def test_a_path_may_hold_any_characters(path: str) -> None:
    assert load_config([f"base={path}"]).base == path


def test_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ü")
    assert load_config(["base=~/m"]).base == "/home/ü/m"


@pytest.mark.parametrize(
    "labels",
    [
        ("background", "Crohn's"),
        ("background", "T2*"),
        ("background", "linke Niere (groß)"),
        ("background", "white matter"),
    ],
)
def test_names_of_classes_may_hold_any_characters_and_reach_hospitals(
    labels: tuple[str, ...],
) -> None:
    config = load_config([f"data.labels=[{', '.join(labels)}]"])
    assert config.data.labels == labels
    names, settings = job_settings(config)
    assert load_job(names, settings).data.labels == labels


@pytest.mark.parametrize(
    ("text", "base"), [("base='x y'", "x y"), ('base="a=b"', "a=b"), ("base=null", None)]
)
def test_what_is_quoted_already_stays(text: str, base: str | None) -> None:
    assert load_config([text]).base == base
    assert load_config(["data.spacing_mm=null"]).data.spacing_mm is None


@pytest.mark.parametrize("text", ["base", "=3", "", " =3", "a b=3"])
def test_what_is_no_setting_is_shown_how_to_quote(text: str) -> None:
    with pytest.raises(ConfigError, match="SETTING=VALUE") as caught:
        load_config([text])
    assert "='" in str(caught.value)


def test_a_name_of_a_group_is_still_checked() -> None:
    with pytest.raises(UnknownName):
        load_config(["model=unet,unet_2d"])
    with pytest.raises(UnknownName):
        load_config(["model=une(t)"])


@pytest.mark.parametrize("seed", range(200))
def test_any_text_is_read_as_it_is(seed: int) -> None:
    drawn = random.Random(seed)
    text = "/" + "".join(
        drawn.choices("aä1 =~'\"\\[](){},:;#%&*!@+-.<>?|^`", k=drawn.randint(1, 12))
    )
    _, found = read_override(f"base={text}")
    assert str(found.value()) in (text, text.strip())
