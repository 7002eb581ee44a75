"""The one place that touches a private name of Flower 1.39.

`flwr.app.Message` asks `flwr.supercore.task_identity` which run and node it is sent by, and raises
where Flower started no task. Flower's strategies make their messages so, and nothing public of
Flower sets it. tests/core/simulation/test_identity.py fails when Flower changes this.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.supercore.task_identity import TaskIdentity

RUN, NODE, TASK = 1, 1, 1  # any numbers: nobody else sees them


@contextmanager
def task_identity() -> Iterator[None]:
    """Let this process make messages, as if Flower had started a task in it."""
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    assume_identity()
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def assume_identity() -> None:
    """Do the same for as long as the process lives."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, NODE, TASK
