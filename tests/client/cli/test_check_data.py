"""What a hospital is told of its data folder before it joins."""

import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from polyclinic.errors import DataError
from polyclinic.imaging.datasets import read_dataset
from polyclinic_client.cli.check_data import check_images, describe_dataset
from tests.core.imaging.test_datasets import describe, entry, folder, save

__all__ = ["folder"]


def quiet() -> Console:
    return Console(file=StringIO(), width=1000)


def said(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_sound_folder(folder: Path) -> None:
    dataset, console = read_dataset(folder), quiet()
    assert "3 training, 1 validation, 1 test cases" in describe_dataset(dataset)
    assert "5 cases" in check_images(dataset, True, console)
    assert "note" not in said(console)


def test_every_fault_is_named_and_the_line_that_leaves_them_out_works(folder: Path) -> None:
    console = quiet()
    (folder / "i1.nii.gz").write_bytes(b"no image")
    save(folder / "l4.nii.gz", np.full((12, 10, 9), 7, np.uint8))
    with pytest.raises(DataError, match="i1"):
        check_images(read_dataset(folder), True, console)
    assert "label 7" in said(console) and "2 of 5" in said(console)
    found = re.search(r'"excluded": (\[.*\])', said(console))
    assert found is not None
    tree = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(tree | {"excluded": json.loads(found[1])}))
    again = quiet()
    assert "3 cases" in check_images(read_dataset(folder), True, again)
    assert "2 case(s) are left out" in said(again)


def test_names_are_shown_as_they_are(folder: Path) -> None:
    labels = {"0": "[/red]", "1": "tumour [left]", "2": "tumour [right]"}
    describe(folder, labels=labels, name="[bold]north", training=[entry(0), entry(1), entry(2)])
    console, dataset = quiet(), read_dataset(folder)
    console.print(describe_dataset(dataset))
    check_images(dataset, True, console)
    shown = " ".join(said(console).split())
    assert "[bold]north" in shown and "[/red]" in shown
    assert "tumour [left], tumour [right]" in shown and "data.mirroring=on" in shown
