"""The federation that `nvflare_simulator.py` measures.

    build/nvflare-env/bin/python benchmarks/peers/nvflare_noop.py WORKSPACE STAMPS
        --hospitals 3 --rounds 3

It runs with the Python of NVIDIA FLARE's own environment.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob


class NoopExecutor(Executor):
    """A hospital that replies at once.

    It replies to `train` with the arrays that it received, and to both tasks with a metric.
    """

    def execute(
        self,
        task_name: str,
        shareable: Shareable,
        fl_ctx: FLContext,  # noqa: ARG002
        abort_signal: Signal,  # noqa: ARG002
    ) -> Shareable:
        """Answer one task."""
        params = FLModelUtils.from_shareable(shareable).params if task_name == "train" else None
        meta = {FLMetaKey.NUM_STEPS_CURRENT_ROUND: 1}
        return FLModelUtils.to_shareable(FLModel(params=params, metrics={"loss": 0.0}, meta=meta))


class StampedFedAvg(FedAvg):
    """FLARE's FedAvg, with a time stamp before the first round and at the end of each.

    The simulator starts the hospitals' processes while the workflow already runs, so one exchange
    comes before the first stamp: then all of them are there.

    Args:
        num_clients: Number of hospitals, all of them in each round.
        num_rounds: Number of rounds.
        stamps: File that a line is appended to.
        own_validation: Whether the average is sent out once more, as a task `validate`, before the
            round ends.
    """

    def __init__(
        self, num_clients: int, num_rounds: int, stamps: str, own_validation: bool
    ) -> None:
        super().__init__(
            num_clients=num_clients,
            num_rounds=num_rounds,
            persistor_id="",
            save_filename="model.fobs",
        )
        self.stamps = stamps
        self.own_validation = own_validation

    def load_model(self) -> FLModel:
        """Return the initial model; FedAvg calls this once, before the first round."""
        model = FLModel(
            params={f"array_{number}": np.zeros(1000, np.float32) for number in range(10)}
        )
        self._validate(model)
        self._stamp()
        return model

    def save_model(self, model: FLModel) -> None:
        """Save the average, as FedAvg does at the end of each round."""
        super().save_model(model)
        if self.own_validation:
            self._validate(model)
        self._stamp()

    def _validate(self, model: FLModel) -> None:
        replies = self.send_model_and_wait(task_name="validate", data=model)
        if len(replies) != self.num_clients:
            raise RuntimeError(f"{len(replies)} of {self.num_clients} hospitals validated")

    def _stamp(self) -> None:
        with Path(self.stamps).open("a") as file:
            file.write(f"{time.monotonic()}\n")


def run() -> None:
    """Run the job in FLARE's simulator, one client process per hospital (its default)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace")
    parser.add_argument("stamps")
    parser.add_argument("--hospitals", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--own-validation", action="store_true")
    parser.add_argument(
        "--request-interval-s", type=float, help="FLARE's server.task_request_interval"
    )
    options = parser.parse_args()
    job = FedJob(name="noop", min_clients=options.hospitals)
    job.to_server(
        StampedFedAvg(options.hospitals, options.rounds, options.stamps, options.own_validation)
    )
    if options.request_interval_s is not None:
        job.to_server({"server": {"task_request_interval": options.request_interval_s}})
    job.to_clients(NoopExecutor(), tasks=["train", "validate"])
    raise SystemExit(job.simulator_run(options.workspace, n_clients=options.hospitals))


if __name__ == "__main__":
    # FLARE copies the module of each component into the job by its name, which must not be
    # `__main__`.
    import nvflare_noop

    nvflare_noop.run()
