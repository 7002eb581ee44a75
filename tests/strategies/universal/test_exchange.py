"""What travels from hospital to coordinator: the encoder alone."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_config
from polyclinic.learning.site_tasks import SiteTask
from polyclinic.learning.state_dict import StateDict, shared_names
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.universal.exchange import (
    TASK,
    declare_in_numbers,
    layout_of,
    make_teacher,
    read_declaration,
    task_vector,
)
from polyclinic_strategies.universal.networks.network import UniversalNetwork

DISCS = SiteTask("classification", 2, 3, 3)


def network() -> UniversalNetwork:
    chosen = [
        "model=universal",
        "data=universal",
        "training=universal",
        "data.patch=[32,32]",
        "model.encoder.widths=[8,8,8,8]",
    ]
    made = instantiate(load_config(chosen).model)
    assert isinstance(made, UniversalNetwork)
    return made


def base_of(one: UniversalNetwork) -> StateDict:
    return {name: one.state_dict()[name].clone() for name in shared_names(one, "none")}


@pytest.mark.parametrize("task", [DISCS, SiteTask("segmentation", 5, 1, 2)])
def test_a_declaration_survives_as_numbers(task: SiteTask) -> None:
    assert read_declaration({"loss": 0.5, **declare_in_numbers(task)}) == task


def test_no_declaration_is_none() -> None:
    assert read_declaration({"loss": 0.5, "classes": 2.0}) is None


def test_a_task_vector_is_of_the_encoder_alone() -> None:
    one = network()
    base = base_of(one)
    one.attach_head(DISCS)
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(0.5)
    vector = task_vector(one, base, 0)
    assert set(vector) == set(base) and all(name.startswith("encoder.") for name in vector)
    assert {name: tuple(tensor.shape) for name, tensor in vector.items()} == layout_of(base, 0)
    assert_close(
        vector[next(iter(dict(one.named_parameters())))],
        torch.full_like(base[next(iter(dict(one.named_parameters())))], 0.5),
    )


def entry(
    folder: Path, base: StateDict, vector: StateDict, layout: dict[str, tuple[int, ...]]
) -> tuple[Ledger, str]:
    ledger = Ledger.open(folder)
    digest = ledger.add_base(base)
    said = Contribution("a", digest, TASK, 7, declare_in_numbers(DISCS), 1.0, "1")
    path = write_contribution(folder / "out", said, vector, {"embedding.mean": torch.ones(2)})
    ledger.receive(path, "a", Requirements(digest, layout, TASK, None, 2**20, 0.0, {}, 0))
    return ledger, digest


def test_a_contribution_becomes_a_teacher(tmp_path: Path) -> None:
    base = {"encoder.w": torch.ones(2, 3)}
    ledger, _ = entry(tmp_path, base, {"encoder.w": torch.full((2, 3), 0.25)}, layout_of(base, 0))
    with ledger:
        teacher = make_teacher(ledger.active()[0], base, 0)
    assert (teacher.site, teacher.num_examples, teacher.task) == (
        "a",
        7,
        "classification, 2 classes, 3 channels, 3-D",
    )
    assert_close(teacher.encoder["encoder.w"], torch.full((2, 3), 1.25))
    assert_close(teacher.statistics["embedding.mean"], torch.ones(2))


def test_factors_of_low_rank_are_expanded(tmp_path: Path) -> None:
    base = {"encoder.weight": torch.zeros(4, 5), "encoder.bias": torch.zeros(4)}
    column, row = (
        torch.tensor([[1.0], [2.0], [0.0], [1.0]]),
        torch.tensor([[1.0, 0.0, 3.0, 0.0, 1.0]]),
    )
    layout = {"encoder.weight.up": (4, 1), "encoder.weight.down": (1, 5), "encoder.bias": (4,)}
    assert layout_of(base, 1) == layout
    ledger, _ = entry(
        tmp_path,
        base,
        {"encoder.weight.up": column, "encoder.weight.down": row, "encoder.bias": torch.ones(4)},
        layout,
    )
    with ledger:
        teacher = make_teacher(ledger.active()[0], base, 1)
    assert_close(teacher.encoder, {"encoder.weight": column @ row, "encoder.bias": torch.ones(4)})
