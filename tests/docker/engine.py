"""The demo's compose project as a test sees it: a coordinator and three hospitals, made small."""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOSPITALS = ("st-anne", "st-bruno", "st-clara")
CONFINED = (
    *("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
SMALL = (
    "model=unet_2d",
    "data=brain_tissue_slices",
    "model.channels=[4,8,8,8]",
    "data.spacing_mm=[6.0,6.0,6.0]",
    "data.patch=[24,32]",
    "data.samples_per_case=4",
    "training.batch_size=4",
    "training.learning_rate=0.01",
    "strategy=refinement",
    "strategy.contributions.poll_s=0.5",
    "strategy.statistics=[average_image]",
    "strategy.rules=[softmax]",
    "strategy.sharpness=[0.2]",
    "privacy.release.min_subjects=1",
    "deployment.hospitals=3",
    "deployment.min_hospitals=2",
    "deployment.wait_s=1800",
)


def docker(
    *arguments: str, check: bool = True, timeout_s: float = 300.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """One command of the engine, with what it printed."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
        check=False,
    )
    assert not check or done.returncode == 0, (
        f"docker {' '.join(arguments[:6])}: {done.stderr[-3000:]}"
    )
    return done


class Deployment:
    """The compose project under a name of its own; `close` leaves nothing of it behind."""

    def __init__(self, *settings: str) -> None:
        self.project = f"polyclinic-test-{uuid.uuid4().hex[:8]}"
        self._settings = {
            "POLYCLINIC_RUN": " ".join([*SMALL, *settings]),
            "POLYCLINIC_PATIENTS": "3",
            "POLYCLINIC_GRID_MM": "6",
        }

    def compose(
        self, *arguments: str, check: bool = True, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        file = str(ROOT / "docker" / "compose.yaml")
        return docker(
            "compose",
            "-f",
            file,
            "-p",
            self.project,
            *arguments,
            check=check,
            timeout_s=timeout_s,
            **self._settings,
        )

    def up(self) -> None:
        # without the hospital that comes later, and the one that leaves
        self.compose("up", "--no-build", "--detach", "coordinator", *HOSPITALS, timeout_s=1800.0)

    def close(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def inspect(self, service: str, template: str) -> str:
        return docker("inspect", "--format", template, self.container(service)).stdout.strip()

    def read(self, service: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python inside a running service."""
        return self.compose("exec", "-T", service, "python", "-c", code, *arguments, check=False)

    def health(self, service: str) -> str:
        """What the engine says: starting, healthy, unhealthy."""
        return self.inspect(service, "{{.State.Health.Status}}")

    def server(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the coordinator's on its volumes, whether or not it runs."""
        volumes = (
            "-v",
            f"{self.project}_runs:/coordinator/runs",
            "-v",
            f"{self.project}_security:/coordinator/security",
            "-v",
            f"{self.project}_service:/coordinator/security/segmentation",
        )
        return docker(
            "run",
            *CONFINED,
            *volumes,
            "-e",
            "COLUMNS=200",
            "polyclinic-server",
            *arguments,
            check=False,
        )

    def file(self, path: str) -> str:
        """Read a file of the run, empty while there is none."""
        volume = ("-v", f"{self.project}_runs:/coordinator/runs:ro")
        return docker(
            "run",
            *CONFINED,
            *volume,
            "--entrypoint",
            "cat",
            "polyclinic-server",
            f"runs/demo/{path}",
            check=False,
        ).stdout

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.file("events.jsonl").split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def state(self) -> str:
        """How the run is: waiting, running, finished ..."""
        text = self.file("run.json")
        return str(json.loads(text)["state"]) if text else "not begun"

    def wait_until(self, true: Callable[[], object], what: str, timeout_s: float = 900.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < deadline, (
                f"{what} did not happen in {timeout_s:.0f} s: {self.logs()}"
            )
            time.sleep(1.0)

    def wait_for_the_end(self, timeout_s: float = 1200.0) -> None:
        self.wait_until(
            lambda: (
                self.inspect("coordinator", "{{.State.Status}} {{.State.ExitCode}}") == "exited 0"
            ),
            "the end",
            timeout_s,
        )

    def logs(self) -> str:
        return self.compose("logs", "--tail", "25", "coordinator", *HOSPITALS, check=False).stdout[
            -6000:
        ]

    def check_outcome(self) -> None:
        """Finished, a sound ledger, and a refined model at every hospital."""
        assert self.state() == "finished", self.logs()
        verified = self.server("ledger", "verify")
        assert verified.returncode == 0 and "sound" in verified.stdout, verified.stderr
        for name in HOSPITALS:
            volume = ("-v", f"{self.project}_{name}-state:/state:ro")
            looked = docker(
                "run",
                *CONFINED,
                *volume,
                "--entrypoint",
                "test",
                "polyclinic-client",
                "-s",
                "/state/refined.safetensors",
                check=False,
            )
            assert looked.returncode == 0, f"{name} has no refined model: {self.logs()}"
