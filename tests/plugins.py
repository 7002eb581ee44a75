"""Packages that are installed for the time of a test: files, and metadata with entry points."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from polyclinic.config.targets import allowed_targets
from polyclinic.describing.statistics import statistic_named
from polyclinic.federation.method import methods
from polyclinic.system.plugins import offered

EntryPoints = Mapping[str, Mapping[str, str]]  # group -> name -> value
MODEL = "_target_: monai.networks.nets.UNet\nspatial_dims: 2\nin_channels: 1\n"
MODEL += "out_channels: 2\nchannels: [4, 8]\nstrides: [2]\n"


class Installer:
    """Installs packages into a folder that is on the path while a test runs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._installed: list[str] = []
        monkeypatch.syspath_prepend(folder)

    def install(
        self, name: str, version: str, entry_points: EntryPoints, files: Mapping[str, str]
    ) -> None:
        """Install a package.

        Args:
            name: Of the distribution.
            version: Of the distribution.
            entry_points: Group to name to value.
            files: Path below site-packages to content.
        """
        for path, content in files.items():
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).write_text(content)
        metadata = self._folder / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        lines = []
        for group, offers in entry_points.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in offers.items()), ""]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        self._installed += [path.partition("/")[0].removesuffix(".py") for path in files]
        self.forget()

    def forget(self) -> None:
        """Forget what was found before, and what was imported of these packages."""
        importlib.invalidate_caches()
        for name in list(sys.modules):
            if name.partition(".")[0] in self._installed:
                del sys.modules[name]
        for cached in (offered, methods, allowed_targets, statistic_named):
            cached.cache_clear()
