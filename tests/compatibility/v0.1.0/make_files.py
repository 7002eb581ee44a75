"""Make the files of version 0.1.0 that the tests of this folder read.

Run in a checkout of version 0.1.0, with its packages (`polyclinic`, `server`, `client`,
`strategies`) first on PYTHONPATH: `python make_files.py WORK KEPT`. Real processes on loopback do
the work in WORK, which takes some minutes. What is kept, and what that version said of it, goes
to KEPT.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from polyclinic.cohorts.hospitals import HOSPITALS, write_cohort, write_unlabelled
from polyclinic.keys import load_public_key
from polyclinic.ledger import Ledger
from polyclinic.processes import Child, free_port, python_module
from server.authority import Authority
from server.enrolment import Registry, enrol_with_kit

from tests.e2e.federation import descendants, kill
from tests.task_cohort import write_public, write_tasks

KEPT_RUNS = (
    "fedavg", "interrupted-fedavg", "merging", "interrupted-merging", "refinement", "universal",
)  # fmt: skip
LEFT_OUT = re.compile(
    r"/(tensorboard|pictures|flwr|incoming|lock|secret|report\.html|coordinator\.log|[^/]*\.log)"
    r"|-(wal|shm)$"
)
SITES = ("mprage-3t", "spgr-1.5t", "thick-t1")
TINY = (
    "model=unet_2d",
    "data=brain_tissue_slices",
    "model.channels=[2,4,4]",
    "model.strides=[2,2]",
    "data.spacing_mm=[8.0,8.0,8.0]",
    "data.patch=[16,24]",
    "data.samples_per_case=4",
    "training.batch_size=4",
    "training.learning_rate=0.02",
    "seed=5",
)
MERGING = ("strategy.poll_s=0.5", "rounds=2")
REFINEMENT = (
    "strategy=refinement",
    "rounds=2",
    "strategy.base_rounds=1",
    "strategy.contributions.poll_s=0.5",
    "strategy.statistics=[average_image,histogram]",
    "strategy.rules=[softmax,nearest]",
    "strategy.sharpness=[0.2]",
    "strategy.stay.newcomers=1",
    "privacy.release.min_subjects=1",
    "deployment.hospitals=2",
)
UNIVERSAL = (
    "strategy=universal",
    "model=universal",
    "data=universal",
    "training=universal",
    "strategy.stages=1",
    "strategy.contributions.poll_s=0.5",
    "strategy.distillation.steps=10",
    "strategy.distillation.batch_size=8",
    "strategy.distillation.hidden=8",
    "model.encoder.widths=[8,8,8,8]",
    "data.patch=[32,32]",
    "training.epochs=1",
    "training.batch_size=6",
    "deployment.hospitals=2",
)


class Federation:
    """A coordinator with keys, and its hospitals, in one folder."""

    def __init__(self, folder: Path, authority: Authority, name: str, *settings: str) -> None:
        self.folder, self.name, self.authority = folder, name, authority
        where = (
            "deployment.security=security",
            "deployment.runs=runs",
            "deployment.host=127.0.0.1",
        )
        command = python_module("server.cli", "run", "--name", name, *settings, *where)
        self.coordinator = Child(name, command, folder / "logs" / f"{name}.log")
        self.hospitals: list[Child] = []
        self.coordinator.start()

    def hospital(self, command: str, data: Path, *options: str, site: str = "") -> Child:
        site = site or data.name
        kit = self.folder / "keys" / site / f"{site}.kit.json"
        words = (
            "--kit",
            kit,
            "--data",
            data,
            "--state",
            self.state(site),
            "--wait",
            "600",
            *options,
        )
        child = Child(
            site,
            python_module("client.cli", command, *map(str, words)),
            self.folder / "logs" / f"{self.name}-{site}.log",
        )
        child.start()
        self.hospitals.append(child)
        return child

    def state(self, site: str) -> Path:
        return self.folder / "states" / self.name / site

    def events(self, kind: str) -> list[dict]:
        path = self.folder / "runs" / self.name / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def wait_until(self, true: Callable[[], object]) -> None:
        while not true():
            if self.coordinator.status() is not None:
                raise SystemExit(f"{self.name}: {self.coordinator.last_words()}")
            time.sleep(0.1)

    def end(self) -> None:
        status = self.coordinator.wait()
        self.stop()
        if status:
            raise SystemExit(f"{self.name}: {self.coordinator.last_words()}")

    def stop(self) -> None:
        for child in self.hospitals:
            child.stop(12.0)


def kill_all(child: Child) -> None:
    """End a process and what it started, as a power cut does."""
    for process in descendants(child.pid):
        kill(process.pid)
    kill(child.pid)
    child.wait(10)


def run_cli(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def make_keys(folder: Path, sites: list[str]) -> Authority:
    """Make an authority, a key and a kit for everybody; one hospital's key is revoked."""
    authority = Authority.create(folder / "security", ["127.0.0.1"], free_port())
    for site in [*sites, "st-elsewhere"]:
        made = run_cli("client.cli", "keygen", "--folder", str(folder / "keys" / site))
        assert made.returncode == 0, made.stderr
        public = load_public_key(folder / "keys" / site / "hospital.pub")
        enrol_with_kit(authority, site, public, folder / "keys" / site / f"{site}.kit.json")
    registry = Registry(authority.folder)
    registry.revoke("st-elsewhere", "made a new key")
    registry.close()
    return authority


def fedavg(folder: Path, authority: Authority, data: list[Path]) -> None:
    settings = ("strategy=averaging/fedavg", "rounds=3", "deployment.hospitals=2", *TINY)
    whole = Federation(folder, authority, "fedavg", *settings)
    for site in data[:2]:
        whole.hospital("join", site)
    whole.end()
    part = Federation(folder, authority, "interrupted-fedavg", *settings)
    for site in data[:2]:
        part.hospital("join", site)
    part.wait_until(lambda: part.events("round_end"))
    kill_all(part.coordinator)
    part.stop()


def merging(folder: Path, authority: Authority, data: list[Path]) -> None:
    first, second, third = data
    settings = ("strategy=merging/mean", *MERGING, *TINY)
    whole = Federation(
        folder,
        authority,
        "merging",
        *settings,
        "deployment.hospitals=3",
        "deployment.min_hospitals=1",
        f"strategy.end.sites=[{third.name}]",
        "strategy.compare=[ties]",
    )
    for site in (first, second):
        whole.hospital("join", site)
    whole.wait_until(lambda: len(whole.events("contribution")) == 2)
    ledger = str(folder / "runs" / "merging" / "ledger")
    words = ("ledger", "withdraw", second.name, "--reason", "leaves", "--ledger", ledger)
    assert run_cli("server.cli", *words).returncode == 0
    whole.wait_until(lambda: [e for e in whole.events("published") if e["why"] == "withdrawal"])
    whole.hospital("join", third)
    whole.end()


def interrupted_merging(folder: Path, authority: Authority, data: list[Path]) -> None:
    """One contribution is in, the other waits in its hospital's outbox."""
    first, second, _ = data
    settings = (
        "strategy=merging/mean",
        *MERGING,
        *TINY,
        "deployment.hospitals=2",
        "deployment.min_hospitals=1",
        "base=base.safetensors",
    )
    shutil.copyfile(
        folder / "runs/fedavg/arms/fedavg/model.safetensors", folder / "base.safetensors"
    )
    whole = Federation(folder, authority, "undisturbed", *settings)
    for site in (first, second):
        whole.hospital("join", site)
    whole.end()
    part = Federation(folder, authority, "interrupted-merging", *settings)
    one = part.hospital("join", first)
    part.wait_until(lambda: part.events("contribution"))
    two = part.hospital("join", second, "--min-subjects", "2", "--noise", "0.5")
    base = part.state(second.name) / "bases"
    part.wait_until(lambda: list(base.glob("*.safetensors")))
    kill_all(part.coordinator)
    two.stop(12.0)
    one.stop(12.0)
    state = str(part.state(second.name))
    words = ("contribute", "--offline", "--insecure", "--server", "127.0.0.1:1", "--name")
    done = run_cli("client.cli", *words, second.name, "--data", str(second), "--state", state)
    assert done.returncode == 0, done.stderr


def refinement(folder: Path, authority: Authority, data: list[Path]) -> None:
    whole = Federation(folder, authority, "refinement", *REFINEMENT, *TINY)
    for site in data[:2]:
        whole.hospital("join", site)
    unlabelled = write_unlabelled(data[2], folder / "data" / "st-john")
    whole.wait_until(lambda: whole.events("contribution"))
    whole.hospital("join", unlabelled, "--describe")
    whole.end()


def universal(folder: Path, authority: Authority) -> None:
    tasks = {path.name: path for path in write_tasks(folder / "tasks")}
    write_public(folder / "public")
    whole = Federation(folder, authority, "universal", *UNIVERSAL, "strategy.public=public")
    for site in ("discs", "blobs"):
        whole.hospital("join", tasks[site])
    whole.end()


def says(folder: Path, kept: Path) -> None:
    """Write down what this version says of the files, and what its models predict."""
    runs, said = folder / "runs", {}
    for run in KEPT_RUNS:
        if not run.startswith("interrupted"):
            said[f"report {run}"] = ("report", run, "--runs", runs)
    for run in ("merging", "refinement", "universal"):
        ledger = ("--ledger", runs / run / "ledger")
        said[f"ledger list {run}"] = ("ledger", "list", *ledger)
        said[f"ledger history {run}"] = ("ledger", "history", *ledger)
        said[f"ledger verify {run}"] = ("ledger", "verify", *ledger)
        said[f"models list {run}"] = ("models", "list", *ledger)
    ledger = runs / "merging" / "ledger"
    for rule in (("mean",), ("ties", "keep=0.5")):
        out = kept / "models" / f"merged-{rule[0]}.safetensors"
        words = ("merge", f"rule={rule[0]}", *rule[1:], f"ledger={ledger}", "--to", out)
        said[f"merge {rule[0]}"] = words
    refine = ("refine", "--ledger", runs / "refinement" / "ledger", "--explain", "--for")
    said["refine st-john"] = (*refine, "st-john")
    said["refine mprage-3t"] = (*refine, "mprage-3t", "--left-out")
    said["enrol list"] = ("enrol", "list", "--security", folder / "security")
    journal = folder / "security" / "journal"
    said["journal verify"] = ("ledger", "verify", "--ledger", journal)
    told = {}
    for name, words in said.items():
        ended = run_cli("server.cli", *map(str, words))
        assert ended.returncode == 0, (name, ended.stderr)
        told[name] = ended.stdout.replace(f"{folder}/", "").split("\n")
    with Ledger.open(runs / "undisturbed" / "ledger", create=False) as opened:
        told["undisturbed"] = [opened.publications()[-1].digest]
    (kept / "said.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    models = kept / "models"
    fedavg = runs / "fedavg" / "arms" / "fedavg" / "model.safetensors"
    for name, model, image in (
        ("fedavg", fedavg, "scan.nii.gz"),
        ("refined", models / "refined.safetensors", "scan.nii.gz"),
        ("universal", models / "universal.safetensors", "disc-*.png"),
    ):
        images = map(str, sorted((kept / "images").glob(image)))
        words = ("predict", str(model), *images, "--out", str(kept / "predicted" / name))
        ended = run_cli("client.cli", *words)
        assert ended.returncode == 0, ended.stderr


def keep(folder: Path, kept: Path) -> None:
    """Copy what is worth keeping: no logs, no reports, no pictures, nothing that is there twice."""
    for database in folder.rglob("*.sqlite"):
        with closing(sqlite3.connect(database)) as connection:  # what a kill left in its log
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for run in KEPT_RUNS:
        copy(folder / "runs" / run, kept / "runs" / run)
    for path in (kept / "runs" / "merging" / "arms").rglob("model.safetensors"):
        if path.parent.name != "merging-mean":
            path.unlink()
    for site in SITES[:2]:
        copy(folder / "states" / "interrupted-merging" / site, kept / "states" / site)
        copy(folder / "keys" / site, kept / "keys" / site)
        copy(folder / "data" / site, kept / "data" / site, "dataset.json")
    copy(folder / "security", kept / "security")
    (kept / "models").mkdir()
    (kept / "images").mkdir()
    states = folder / "states"
    own = states / "universal" / "discs" / "runs"
    for source, target in {
        states / "refinement/st-john/refined.safetensors": "models/refined.safetensors",
        own / "universal/universal/model.safetensors": "models/universal.safetensors",
        folder / "data/mprage-3t/imagesTs/mprage-3t_004.nii.gz": "images/scan.nii.gz",
        folder / "tasks/discs/test-0.png": "images/disc-0.png",
        folder / "tasks/discs/test-1.png": "images/disc-1.png",
    }.items():
        shutil.copyfile(source, kept / target)


def copy(source: Path, target: Path, pattern: str = "*") -> None:
    """Copy a folder without what nobody reads again."""
    for path in source.rglob(pattern):
        place = path.relative_to(source)
        if path.is_file() and not LEFT_OUT.search(f"/{place}"):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)


def main() -> None:
    folder, kept = (Path(word).resolve() for word in sys.argv[1:3])
    folder.mkdir(parents=True)
    coarse = [replace(scanner, voxel_mm=(8.0, 8.0, 9.0)) for scanner in HOSPITALS[:3]]
    data = write_cohort(folder / "data", sites=3, subjects=(2, 1, 1), seed=7, scanners=coarse)
    authority = make_keys(folder, [*SITES, "st-john", "discs", "blobs"])
    os.chdir(folder)
    fedavg(folder, authority, data)
    merging(folder, authority, data)
    interrupted_merging(folder, authority, data)
    refinement(folder, authority, data)
    universal(folder, authority)
    keep(folder, kept)
    says(folder, kept)


if __name__ == "__main__":
    main()
