"""Attacks against originals, random fields and the learned field.

Finished attacks are kept and not repeated.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.learning.state_dict import state_digest
from polyclinic.system.durable import write_durably
from polyclinic.system.text import json_digest
from polyclinic_strategies.proxy.attacks.attackers import ATTACKERS, attack
from polyclinic_strategies.proxy.attacks.contest import Attacker, AttackTraining, Contest
from polyclinic_strategies.proxy.attacks.evidence import collect
from polyclinic_strategies.proxy.attacks.siamese import SIAMESE, ProxyAndProxy
from polyclinic_strategies.proxy.attacks.verification import Recognition
from polyclinic_strategies.proxy.cases import CanonicalCase
from polyclinic_strategies.proxy.generator import Field, NoField, RandomField
from polyclinic_strategies.proxy.measurements import measure_field, round_trips
from polyclinic_strategies.proxy.protection import Protection

LEARNED = "learned field"
BRIEF_STEPS = (40, 30, 12)  # of Siamese networks and of registrations, and pairs in a step
# strengths of random fields, for the curve; the last one folds space at some places
STRENGTHS_MM = (2.0, 4.0, 8.0)
Say = Callable[[str], None]
Results = dict[str, list[dict[str, float]]]


class AttackSuite:
    """All attacks of one report.

    Args:
        known: People whose names the attackers know.
        test: People to be recognized.
        protection: The learned generator.
        restarts: Number of trainings of every attacker. Originals, where all succeed, and other
            kinds of people are attacked once.
        keys: Number of proxies of every visit.
        kept: Folder of finished results.
        say: Called with lines of progress.
        brief: For a demo: attackers take few steps, and all but the learned field is attacked by
            the first two alone.
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
        *,
        brief: bool = False,
    ) -> None:
        self._known, self._test, self._protection = known, test, protection
        self._keys, self._kept, self._say, self._brief = keys, kept, say, brief
        lengths = AttackTraining(*BRIEF_STEPS) if brief else AttackTraining()
        self._often, self._once = (replace(lengths, restarts=each) for each in (restarts, 1))

    def arms(self, cases: Sequence[Case], data: DataConfig) -> list[dict[str, Any]]:
        """Attack originals, a random field of equal displacement, and the learned field.

        Returns:
            For each, how the field moves, and how well people are recognized.
        """
        field = self._protection.field
        equal = self._equal_to(field)
        fields: list[tuple[str, str, Field, AttackTraining]] = [
            ("originals", "originals", NoField(), self._once),
            ("random", "random field of equal displacement", equal, self._often),
            ("learned", LEARNED, field, self._often),
        ]
        rows = []
        for name, title, each, settings in fields:
            row = {"name": name, "title": title, **asdict(measure_field(each, self._test))}
            row["round_trip"] = round_trips(each, self._protection, cases, data)
            row["attackers"] = self._attack(title, each, self._known, self._test, settings)
            rows.append(row)
        return rows

    def _equal_to(self, field: Field) -> RandomField:
        """Return the random field that moves as far as a given field.

        Its velocity has to be somewhat stronger than the wanted displacement.
        """
        wanted = measure_field(field, self._test).strength_mm
        strength = wanted
        for _ in range(2):
            found = measure_field(RandomField(strength), self._test).strength_mm
            strength *= wanted / max(found, 1e-6)
        return RandomField(strength)

    def curve(
        self, arms: Sequence[Mapping[str, Any]], cases: Sequence[Case], data: DataConfig
    ) -> list[dict[str, Any]]:
        """Return Dice of the round trip and re-identification, for random fields and for the arms.

        The random fields have several strengths.
        """
        points = []
        for strength_mm in STRENGTHS_MM:
            field, title = RandomField(strength_mm), f"random field of {strength_mm:g} mm"
            found = self._attack(
                title, field, self._known, self._test, self._once, attackers=(ProxyAndProxy(),)
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
        """Attack the learned field on people of another kind, every attacker once."""
        return self._attack(title, self._protection.field, known, test, self._once)

    def agreeing(self, title: str) -> Results:
        """Attack the learned field where all visits of a person have the same keys."""
        field = self._protection.field
        return self._attack(title, field, self._known, self._test, self._once, agree=True)

    def _attack(
        self,
        title: str,
        field: Field,
        known: Sequence[CanonicalCase],
        test: Sequence[CanonicalCase],
        settings: AttackTraining,
        *,
        agree: bool = False,
        attackers: Sequence[Attacker] = (),
    ) -> Results:
        brief = self._brief and title != LEARNED
        attackers = attackers or (ATTACKERS[:2] if brief else ATTACKERS)
        facts = [agree, *(type(each).__name__ for each in attackers)]
        path = self._kept / f"{self._mark(field, known, test, settings, facts)}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        self._say(
            f"attackers, {title}: making proxies of {len(known) + len(test)} scans, "
            f"{self._keys} keys each"
        )
        training, wanted = (
            collect(field, cases, self._keys, seed, agree=agree)
            for cases, seed in ((known, 1), (test, 2))
        )

        def tell(name: str, seed: int, result: Recognition) -> None:
            self._say(
                f"attackers, {title}: {name}, restart {seed + 1}: AUC {result.auc:.3f}, "
                f"rank 1 {result.rank1:.3f}"
            )

        atlas = self._protection.coarse[None, None]
        found = attack(Contest(training, wanted, atlas, settings, field), tell, attackers)
        plain = {name: [asdict(result) for result in results] for name, results in found.items()}
        write_durably(path, json.dumps(plain))
        return plain

    def _mark(
        self,
        field: Field,
        known: Sequence[CanonicalCase],
        test: Sequence[CanonicalCase],
        settings: AttackTraining,
        more: Sequence[object] = (),
    ) -> str:
        """Return a name that depends on everything that determines an attack."""
        weights = ""
        if isinstance(field, nn.Module) and list(field.parameters()):
            weights = state_digest(field.state_dict())
        people = [case.digest for case in (*known, *test)]
        facts = [type(field).__name__, weights, getattr(field, "strength_mm", 0.0), people]
        facts += [asdict(settings), self._keys, *more, torch.__version__]
        return json_digest(facts)[:24]
