"""Flower's SuperLink and SuperNodes as they come, on free loopback ports, with tiny hospitals."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_demos.federation import ONE_THREAD
from tests.e2e.federation import TINY

BIN = Path(sys.executable).parent
APP = Path(__file__).parents[2] / "flower"
QUIET = {  # nothing dials out
    **ONE_THREAD,
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}


class StockFederation:
    """A SuperLink, a SuperNode for each hospital, and fine-tuning beside them."""

    def __init__(self, folder: Path, sites: list[Path]) -> None:
        self.folder, self.port = folder, free_port()
        self.app = folder / "app"
        shutil.copytree(APP, self.app)
        self.superlink = self._flower(
            "flower-superlink", "--insecure", "--disable-runtime-dependency-installation",
            "--host", "127.0.0.1", "--port", str(self.port),
        )  # fmt: skip
        self.nodes = [self._supernode(site) for site in sites]
        self.trainers = [self._trainer(site) for site in sites]

    def start(self) -> None:
        for child in (self.superlink, *self.nodes, *self.trainers):
            child.start()

    def run(self, *settings: str, timeout_s: float) -> None:
        """Submit a run, and wait for its report."""
        asked = [*TINY, f"deployment.runs={self.folder / 'runs'}", *settings]
        text = " ".join(f"'{each}'" for each in asked)
        home = self.folder / "home-cli"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n\n[superlink.lab]\naddress = "127.0.0.1:{self.port}"\n'
            "insecure = true\n"
        )
        deadline = time.monotonic() + timeout_s
        while True:  # the SuperLink may not be up yet
            done = subprocess.run(
                [str(BIN / "flwr"), "run", str(self.app), "lab",
                 "--run-config", f'settings="{text}" name="run"'],
                env={**os.environ, **QUIET, "FLWR_HOME": str(home)},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            if "Successfully started run" in done.stdout:
                break
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1.0)
        report = self.folder / "runs" / "run" / "report.html"
        while not report.exists() and self.described().get("state") != "failed":
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.5)

    def described(self) -> dict[str, Any]:
        path = self.folder / "runs" / "run" / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def said(self) -> str:
        children = (self.superlink, *self.nodes, *self.trainers)
        return "\n".join(f"== {each.log}\n{each.log.read_text()[-3000:]}" for each in children)

    def close(self) -> None:
        stop_all([*self.trainers, *self.nodes, self.superlink], patience_s=12.0)

    def _supernode(self, site: Path) -> Child:
        given = {"site": site.name, "data": site, "state": self.folder / "state" / site.name}
        return self._flower(
            "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}",
            "--host", "127.0.0.1", "--port", str(free_port()),
            "--node-config", " ".join(f'{key}="{value}"' for key, value in given.items()),
            name=site.name,
        )  # fmt: skip

    def _trainer(self, site: Path) -> Child:
        state = self.folder / "state" / site.name
        command = python_module("polyclinic_client.fleet.beside", site.name, str(site), str(state))
        log = self.folder / f"training-{site.name}.log"
        return Child(f"training at {site.name}", command, log, ONE_THREAD)

    def _flower(self, program: str, *arguments: str, name: str = "superlink") -> Child:
        home = self.folder / f"home-{name}"
        environment = {**QUIET, "FLWR_HOME": str(home)}
        command = [str(BIN / program), *arguments]
        return Child(program, command, self.folder / f"{name}.log", environment)
