"""A library: what lies in it, in which order, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.state_dict import StateDict, load_state, save_state
from polyclinic_strategies.universal.teaching.library import (
    UNIVERSAL,
    choose_encoder,
    read_library,
    write_library,
)
from polyclinic_strategies.universal.teaching.teachers import Teacher

SMALL = [
    "model=universal",
    "data=universal",
    "training=universal",
    "model.encoder.widths=[8,8]",
    "data.patch=[16,16]",
]
SITES = ("st-john", "st-mary", "zurich")
TASK = "classification, 2 classes, 1 channel, 2-D"


def encoder(*overrides: str) -> tuple[StateDict, str]:
    """Return the encoder of these settings, and what a file says of it."""
    config = load_config([*SMALL, *overrides])
    torch.manual_seed(0)
    names, settings = job_settings(config)
    return instantiate(config.model).state_dict(), json.dumps(
        {"names": names, "settings": settings}
    )


def tuned(base: StateDict, seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in base.items()
    }


def teachers(base: StateDict) -> list[Teacher]:
    return [
        Teacher(site, tuned(base, number), {}, 40, TASK) for number, site in enumerate(SITES, 1)
    ]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    base, described = encoder()
    path = tmp_path / "library.safetensors"
    assert write_library(path, described, base, base, teachers(base)) == len(SITES)
    return path


def test_what_was_written_is_read_and_the_universal_encoder_comes_first(library: Path) -> None:
    base, _ = encoder()
    network, job, shelf = read_library(library)
    assert [each.name for each in shelf] == [UNIVERSAL, "teacher-1", "teacher-2", "teacher-3"]
    assert [each.task for each in shelf] == ["", TASK, TASK, TASK]
    for read, written in ((shelf[0].state, base), (network.state_dict(), base)):
        assert all(torch.equal(tensor, read[name]) for name, tensor in written.items())
    written = [teacher.encoder for teacher in teachers(base)]
    assert {str(each.state) for each in shelf[1:]} == {
        str({name: each[name] for name in shelf[1].state}) for each in written
    }
    assert job.data.task == "own"


def test_no_name_of_a_hospital_is_in_the_file_and_its_order_says_nothing(
    library: Path, tmp_path: Path
) -> None:
    base, described = encoder()
    content = library.read_bytes()
    assert not [site for site in SITES if site.encode() in content]
    other = tmp_path / "other.safetensors"
    write_library(other, described, base, base, teachers(base)[::-1])
    assert other.read_bytes() == content


def test_a_stranger_and_a_broken_encoder_are_left_out(tmp_path: Path) -> None:
    base, described = encoder()
    turned = {name: -tensor for name, tensor in base.items()}
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in base.items()}
    crowd = [*teachers(base), *(Teacher("x", each, {}, 4, TASK) for each in (turned, broken))]
    path = tmp_path / "library.safetensors"
    assert write_library(path, described, base, base, crowd) == len(SITES)
    assert len(read_library(path)[2]) == 1 + len(SITES)


def test_the_best_is_chosen_and_of_equals_the_universal_one() -> None:
    assert choose_encoder({UNIVERSAL: 0.6, "teacher-1": 0.5, "teacher-2": 0.7}) == "teacher-2"
    assert choose_encoder({UNIVERSAL: 0.7, "teacher-1": 0.7}) == UNIVERSAL


def test_a_library_without_teachers_is_refused(tmp_path: Path) -> None:
    base, described = encoder()
    path = tmp_path / "library.safetensors"
    assert write_library(path, described, base, base, []) == 0
    with pytest.raises(ConfigError, match="without teachers"):
        read_library(path)


def test_a_single_encoder_is_no_library(tmp_path: Path) -> None:
    base, described = encoder()
    save_state(base, tmp_path / "encoder.safetensors", {"polyclinic": described})
    with pytest.raises(ConfigError, match="no library"):
        read_library(tmp_path / "encoder.safetensors")


def test_an_encoder_of_another_network_is_refused(tmp_path: Path) -> None:
    base, described = encoder()
    wider, _ = encoder("model.encoder.widths=[8,16]")
    path = tmp_path / "library.safetensors"
    save_state(
        {
            **{f"universal/{name}": tensor for name, tensor in base.items()},
            **{f"teacher-1/{name}": tensor for name, tensor in wider.items()},
        },
        path,
        {
            "polyclinic": json.dumps(
                {**json.loads(described), "library": [{"name": UNIVERSAL}, {"name": "teacher-1"}]}
            )
        },
    )
    with pytest.raises(ModelInvalid, match="teacher-1 is of another network"):
        read_library(path)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([{"name": "universal"}], "does not name"),
        ([{"name": name} for name in ("universal", "teacher-1", "teacher-1")], "does not name"),
        ([{"name": f"teacher-{number}"} for number in range(9)], "does not name"),
        ("none", "damaged"),
        ([{"name": "../teacher"}], "damaged"),
        ([{"task": "one"}], "damaged"),
    ],
)
def test_a_damaged_list_is_refused(library: Path, listed: object, said: str) -> None:
    state, metadata = load_state(library)
    described = {**json.loads(metadata["polyclinic"]), "library": listed}
    save_state(state, library, {"polyclinic": json.dumps(described)})
    with pytest.raises(ModelInvalid, match=said):
        read_library(library)


def test_a_listed_encoder_without_tensors_and_a_cut_file_are_refused(library: Path) -> None:
    state, metadata = load_state(library)
    fewer = {name: tensor for name, tensor in state.items() if not name.startswith("teacher-2/")}
    save_state(fewer, library, metadata)
    with pytest.raises(ModelInvalid, match="no tensors of it"):
        read_library(library)
    library.write_bytes(library.read_bytes()[:-1000])
    with pytest.raises(ModelInvalid, match="not a readable"):
        read_library(library)


def test_numbers_that_are_none_are_refused(library: Path) -> None:
    state, metadata = load_state(library)
    name = next(name for name in state if name.startswith("teacher-3/"))
    save_state({**state, name: torch.full_like(state[name], torch.inf)}, library, metadata)
    with pytest.raises(ModelInvalid, match="teacher-3 has NaN or Inf"):
        read_library(library)
