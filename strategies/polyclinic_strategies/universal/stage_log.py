"""The log of the universal model's stages.

run.json holds the contributors and the bytes of each stage, the ledger the encoders.

    run.json: "universal": {"combine": ..., "planned": STAGES, "public_images": N, "library": N,
        "stages": [
        {"stage": 1, "base": DIGEST, "waited_s": ..., "contributions": [
            {"site", "digest", "task", "num_examples", "sent", "received"}],
         "weights": {SITE: ...}, "trust": {SITE: ...}, "losses": [...], "seconds": ...}]}

`sent` and `received` are bytes to and from the hospital. A stage without `seconds` has its
contributions, but they are not combined yet.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.federation.run_folder import RunFolder
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.universal.exchange import read_declaration

MOST_LOSSES = 200  # upper limit of the losses that are kept of a distillation, evenly spread


class StageLog:
    """The log of one run's stages.

    Args:
        folder: Folder of the run.
        arm: Name of the strategy in folders.
    """

    def __init__(self, folder: RunFolder, arm: str) -> None:
        self._folder = folder
        self._arm = arm

    def record_plan(self, combine: str, planned: int) -> None:
        """Record how encoders are combined, and the number of stages."""
        self._folder.update(universal={**self._read(), "combine": combine, "planned": planned})

    def record_public_images(self, images: int) -> None:
        """Record the number of unlabelled images."""
        self._folder.update(universal={**self._read(), "public_images": images})

    def read_bases(self, ledger: Ledger) -> dict[int, str]:
        """Return the digest of each finished stage's encoder, by the number of the stage.

        These are the bases that this run added to the ledger.
        """
        ours = (self._folder.name, self._arm)
        return {
            int(note["round"]): digest
            for digest, note in ledger.base_notes()
            if (note.get("run"), note.get("arm")) == ours and note.get("round")
        }

    def read_contributions(self, number: int, base: str, ledger: Ledger) -> list[Entry]:
        """Return a stage's contributions if they are complete, as before a restart; else none.

        Args:
            number: Number of the stage.
            base: Digest of the encoder that the stage started from.
            ledger: Ledger that holds the contributions.
        """
        wanted = {
            each["digest"]
            for stage in self._stages()
            if (stage["stage"], stage["base"]) == (number, base)
            for each in stage["contributions"]
        }
        return [entry for entry in ledger.active(base) if entry.digest in wanted]

    def last_taught(self) -> tuple[int, str] | None:
        """Return the number and the base of the last finished stage in which somebody taught."""
        taught = [
            (int(stage["stage"]), str(stage["base"]))
            for stage in self._stages()
            if stage["contributions"] and stage.get("seconds") is not None
        ]
        return max(taught, default=None)

    def record_library(self, teachers: int) -> None:
        """Record the number of teachers in the library of encoders."""
        self._folder.update(universal={**self._read(), "library": teachers})

    def contributors(self) -> set[str]:
        """Return the hospitals that contributed to any stage."""
        return {str(each["site"]) for stage in self._stages() for each in stage["contributions"]}

    def record_contributions(
        self,
        number: int,
        base: str,
        entries: Sequence[Entry],
        moved: Mapping[str, tuple[int, int]],
        seconds: float,
    ) -> None:
        """Record that a stage's contributions are complete.

        Args:
            number: Number of the stage.
            base: Digest of the encoder that the stage started from.
            entries: The contributions.
            moved: Bytes sent to and received from each site.
            seconds: Time that the contributions took.
        """
        rows = []
        for entry in entries:
            sent, received = moved.get(entry.site, (0, 0))
            row: dict[str, object] = {
                "site": entry.site,
                "digest": entry.digest,
                "task": str(read_declaration(entry.metrics) or ""),
                "num_examples": entry.num_examples,
                "sent": sent,
                "received": received,
            }
            rows.append(row)
        stage = {"stage": number, "base": base, "waited_s": seconds, "contributions": rows}
        self._write(number, stage)

    def record_result(self, number: int, result: Mapping[str, Any]) -> None:
        """Record what a stage's encoder was made of, and how its training went."""
        losses = list(result.get("losses", ()))
        step = max(1, -(-len(losses) // MOST_LOSSES))
        kept = {"losses": losses[::step], "steps": len(losses)} if losses else {}
        stage = next(stage for stage in self._stages() if stage["stage"] == number)
        self._write(number, {**stage, **result, **kept})

    def _write(self, number: int, stage: Mapping[str, Any]) -> None:
        others = [each for each in self._stages() if each["stage"] != number]
        stages = sorted([*others, stage], key=lambda each: int(each["stage"]))
        self._folder.update(universal={**self._read(), "stages": stages})

    def _stages(self) -> list[dict[str, Any]]:
        stages: list[dict[str, Any]] = self._read().get("stages", [])
        return stages

    def _read(self) -> dict[str, Any]:
        record: dict[str, Any] = self._folder.describe().get("universal") or {}
        return record
