"""What a run keeps of the universal model's stages: run.json says who taught and what moved, the ledger which encoders there were.

run.json: "universal": {"combine": ..., "planned": stages, "public_images": N, "stages": [
    {"stage": 1, "base": DIGEST, "waited_s": ..., "contributions": [{"site", "digest", "task", "num_examples", "sent", "received"}],
     "weights": {site: ...}, "trust": {site: ...}, "losses": [...], "seconds": ...}]}

`sent` and `received` are bytes to and from the hospital. A stage without `seconds` was gathered and not yet combined.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.federation.run_folder import RunFolder
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.universal.exchange import read_declaration

MOST_LOSSES = 200  # kept of a distillation, evenly spread


class StageBook:
    """The stages of one run.

    Args:
        folder: The run's.
        arm: The strategy's name in folders.
    """

    def __init__(self, folder: RunFolder, arm: str) -> None:
        self._folder = folder
        self._arm = arm

    def begin(self, combine: str, planned: int) -> None:
        """Say what is planned."""
        self._folder.update(universal={**self._read(), "combine": combine, "planned": planned})

    def note_public(self, images: int) -> None:
        """Say how many unlabelled images there are."""
        self._folder.update(universal={**self._read(), "public_images": images})

    def read_bases(self, ledger: Ledger) -> dict[int, str]:
        """Stages that are done, and the digests of the encoders that came of them: bases that this run added to the ledger."""
        made = {}
        for digest, note in ledger.base_notes():
            if (note.get("run"), note.get("arm")) == (self._folder.name, self._arm) and note.get(
                "round"
            ):
                made[int(note["round"])] = digest
        return made

    def gathered(self, number: int, base: str, ledger: Ledger) -> list[Entry]:
        """Contributions of a stage that was over before the coordinator was started again; none if it was not."""
        found = next(
            (
                stage
                for stage in self._stages()
                if (stage["stage"], stage["base"]) == (number, base)
            ),
            None,
        )
        wanted = {each["digest"] for each in found["contributions"]} if found else set()
        return [entry for entry in ledger.active(base) if entry.digest in wanted]

    def contributors(self) -> set[str]:
        """Everybody who contributed to any stage."""
        return {str(each["site"]) for stage in self._stages() for each in stage["contributions"]}

    def close(
        self, number: int, base: str, entries: Sequence[Entry], moved: Mapping[str, tuple[int, int]], seconds: float
    ) -> None:  # fmt: skip
        """A stage is gathered; `moved` are bytes sent and received by site."""
        rows = []
        for entry in entries:
            sent, received = moved.get(entry.site, (0, 0))
            row = {
                "site": entry.site,
                "digest": entry.digest,
                "task": str(read_declaration(entry.metrics) or ""),
            }
            row |= {"num_examples": entry.num_examples, "sent": sent, "received": received}  # type: ignore[dict-item]
            rows.append(row)
        self._write(
            number, {"stage": number, "base": base, "waited_s": seconds, "contributions": rows}
        )

    def conclude(self, number: int, result: Mapping[str, Any]) -> None:
        """A stage has made its encoder."""
        losses = list(result.get("losses", ()))
        step = max(1, -(-len(losses) // MOST_LOSSES))
        kept = {"losses": losses[::step], "steps": len(losses)} if losses else {}
        stage = next(stage for stage in self._stages() if stage["stage"] == number)
        self._write(number, {**stage, **result, **kept})

    def _write(self, number: int, stage: Mapping[str, Any]) -> None:
        others = [each for each in self._stages() if each["stage"] != number]
        self._folder.update(
            universal={
                **self._read(),
                "stages": sorted([*others, stage], key=lambda each: int(each["stage"])),
            }
        )

    def _stages(self) -> list[dict[str, Any]]:
        stages: list[dict[str, Any]] = self._read().get("stages", [])
        return stages

    def _read(self) -> dict[str, Any]:
        record: dict[str, Any] = self._folder.describe().get("universal") or {}
        return record
