"""Attackers against originals, against random fields and against the learned one; what is finished is kept and not repeated."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from polyclinic.config.compose import digest
from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.learning.state_dict import state_digest
from polyclinic.system.durable import write_durably
from polyclinic_strategies.proxy.attacks.attackers import SIAMESE, AttackTraining, attack
from polyclinic_strategies.proxy.attacks.evidence import collect
from polyclinic_strategies.proxy.attacks.verification import Recognition
from polyclinic_strategies.proxy.cases import CanonicalCase
from polyclinic_strategies.proxy.generator import Field, NoField, RandomField
from polyclinic_strategies.proxy.measurements import measure_field, round_trips
from polyclinic_strategies.proxy.protection import Protection

# of random fields, for the curve; the last one folds space here and there
STRENGTHS_MM = (2.0, 4.0, 8.0)
Say = Callable[[str], None]
Results = dict[str, list[dict[str, float]]]


class Campaign:
    """All attacks of one report.

    Args:
        known: People whose names the attackers know.
        test: People to be recognized.
        protection: The learned generator.
        restarts: Of every attacker; originals, where all succeed, and other kinds of people are
            attacked once.
        keys: Proxies of every visit.
        kept: Folder of what is finished.
        say: Told of progress.
    """

    def __init__(
        self,
        known: Sequence[CanonicalCase],
        test: Sequence[CanonicalCase],
        protection: Protection,
        restarts: int,
        keys: int,
        kept: Path,
        say: Say,
    ) -> None:
        self._known, self._test, self._protection = known, test, protection
        self._restarts, self._keys, self._kept, self._say = restarts, keys, kept, say

    def arms(self, cases: Sequence[Case], data: DataConfig) -> list[dict[str, Any]]:
        """Originals, a random field of equal displacement, the learned field: how they move and who is recognized."""
        field = self._protection.field
        fields: list[tuple[str, str, Field, int]] = [
            ("originals", "originals", NoField(), 1),
            ("random", "random field of equal displacement", self._equal_to(field), self._restarts),
            ("learned", "learned field", field, self._restarts),
        ]
        return [
            {
                "name": name,
                "title": title,
                **asdict(measure_field(each, self._test)),
                "round_trip": round_trips(each, self._protection, cases, data),
                "attackers": self._attack(
                    title, each, self._known, self._test, AttackTraining(restarts=restarts)
                ),
            }
            for name, title, each, restarts in fields
        ]

    def _equal_to(self, field: Field) -> RandomField:
        """The random field that moves as far as a field does: its velocity has to be somewhat stronger than the displacement wanted."""
        wanted = measure_field(field, self._test).strength_mm
        strength = wanted
        for _ in range(2):
            strength *= wanted / max(
                measure_field(RandomField(strength), self._test).strength_mm, 1e-6
            )
        return RandomField(strength)

    def curve(
        self, arms: Sequence[Mapping[str, Any]], cases: Sequence[Case], data: DataConfig
    ) -> list[dict[str, Any]]:
        """Dice of the round trip against re-identification, for random fields of several strengths and for the arms."""
        points = []
        once = AttackTraining(restarts=1, only=(SIAMESE,))
        for strength_mm in STRENGTHS_MM:
            field = RandomField(strength_mm)
            found = self._attack(
                f"random field of {strength_mm:g} mm", field, self._known, self._test, once
            )
            row = {"name": "random", **asdict(measure_field(field, self._test)), "attackers": found}
            points.append({**row, "round_trip": round_trips(field, self._protection, cases, data)})
        return [
            {
                "arm": row["name"],
                "strength_mm": row["strength_mm"],
                "round_trip": row["round_trip"],
                "auc": mean(result["auc"] for result in row["attackers"][SIAMESE]),
            }
            for row in [*points, *arms]
        ]

    def others(
        self, title: str, known: Sequence[CanonicalCase], test: Sequence[CanonicalCase]
    ) -> Results:
        """The learned field on people of another kind; every attacker once."""
        return self._attack(title, self._protection.field, known, test, AttackTraining(restarts=1))

    def _attack(
        self,
        title: str,
        field: Field,
        known: Sequence[CanonicalCase],
        test: Sequence[CanonicalCase],
        settings: AttackTraining,
    ) -> Results:
        path = self._kept / f"{self._mark(field, known, test, settings)}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        self._say(
            f"attackers, {title}: making proxies of {len(known) + len(test)} scans, {self._keys} "
            "keys each"
        )
        training, wanted = (
            collect(field, cases, self._keys, seed) for cases, seed in ((known, 1), (test, 2))
        )

        def tell(name: str, seed: int, result: Recognition) -> None:
            self._say(
                f"attackers, {title}: {name}, restart {seed + 1}: AUC {result.auc:.3f}, rank 1 "
                f"{result.rank1:.3f}"
            )

        atlas = self._protection.coarse[None, None]
        found = attack(training, wanted, atlas, settings, tell)
        plain = {name: [asdict(result) for result in results] for name, results in found.items()}
        write_durably(path, json.dumps(plain).encode())
        return plain

    def _mark(
        self,
        field: Field,
        known: Sequence[CanonicalCase],
        test: Sequence[CanonicalCase],
        settings: AttackTraining,
    ) -> str:
        """Names an attack by everything that decides it."""
        weights = (
            state_digest(field.state_dict())
            if isinstance(field, nn.Module) and list(field.parameters())
            else ""
        )
        strength = getattr(field, "strength_mm", 0.0)
        people = [case.digest for case in (*known, *test)]
        facts = [
            type(field).__name__,
            weights,
            strength,
            people,
            asdict(settings),
            self._keys,
            torch.__version__,
        ]
        return digest(facts)[:24]
