"""What a hospital has told about its images: STATE/releases/, a file for each different question.

A question that comes again gets the answer that it got: asked anew, noise would average out. Only
so many different questions are answered, ever (`Limits.releases`).
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from polyclinic.errors import LimitExceeded, ModelInvalid
from polyclinic.learning.state_dict import StateDict, load_state, save_state
from polyclinic.system.text import json_digest

Answer = tuple[StateDict, int]  # means, and the number of subjects
SUBJECTS = "subjects"


class ReleaseBook:
    """The answers in a hospital's state folder.

    Args:
        state: The hospital's state folder.
        most: Number of different questions that are answered.
    """

    def __init__(self, state: Path, most: int) -> None:
        self._folder, self._most = state / "releases", most

    def answer(self, question: object, compute: Callable[[], Answer]) -> Answer:
        """Return the answer that the question got before, or compute and keep it.

        Args:
            question: All that the answer depends on, in plain values.
            compute: Computes the answer.

        Raises:
            LimitExceeded: Too many other questions were answered.
        """
        path = self._enter(question)
        with contextlib.suppress(ModelInvalid, KeyError, ValueError):
            means, kept = load_state(path)
            return means, int(kept[SUBJECTS])
        means, subjects = compute()
        save_state(means, path, {SUBJECTS: str(subjects)})
        return means, subjects

    def note(self, question: object) -> None:
        """Note a question whose answer is kept elsewhere.

        Raises:
            LimitExceeded: Too many other questions were answered.
        """
        path = self._enter(question)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def _enter(self, question: object) -> Path:
        path = self._folder / f"{json_digest(question)}.safetensors"
        known = len(list(self._folder.glob("*.safetensors")))
        if not path.exists() and known >= self._most:
            raise LimitExceeded(
                f"statistics of its images for time {known + 1}", str(self._most), "--max-releases"
            )
        return path
