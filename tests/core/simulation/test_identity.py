"""The private name of Flower that simulations need: fails when Flower changes it."""

import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

import polyclinic
from polyclinic.simulation.identity import NODE, RUN, task_identity


def test_messages_can_be_made_inside_and_what_was_before_comes_back() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    before = TaskIdentity._run_id
    with task_identity():
        message = Message(RecordDict(), dst_node_id=5, message_type="query")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (RUN, NODE)
    assert TaskIdentity._run_id == before


def test_without_it_flower_refuses_so_it_is_still_needed() -> None:
    code = (
        "from flwr.app import Message, RecordDict\n"
        "Message(RecordDict(), dst_node_id=5, message_type='query')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"not set" in ended.stderr


def test_it_is_the_only_private_name_of_flower_in_simulations() -> None:
    folder = Path(str(polyclinic.__file__)).parent / "simulation"
    private = ("flwr.supercore", "flwr.common", "flwr.server.", "flwr.supernode", "flwr.superlink")
    found = [
        path.name
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("import ", "from ")) and any(name in line for name in private)
    ]
    assert found == ["identity.py"]


def test_what_was_before_comes_back_after_an_error() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    before = TaskIdentity._node_id
    with pytest.raises(ZeroDivisionError), task_identity():
        raise ZeroDivisionError
    assert TaskIdentity._node_id == before
