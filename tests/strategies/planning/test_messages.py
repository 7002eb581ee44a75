"""What hospitals answer is read within its bounds; the fault is the hospital's by name."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from polyclinic.config.release import Release
from polyclinic.federation.answers import Failure, take
from polyclinic.federation.records import Order
from polyclinic_strategies.planning.fingerprint import NAME, Fingerprint
from polyclinic_strategies.planning.messages import MEAN, ask_for_fingerprint, read_fingerprint
from polyclinic_strategies.refinement.messages import read_question
from tests.fakes import make_reply
from tests.strategies.planning.cohorts import Image, fingerprint

NAMES = {"model": "unet", "data": "segmentation", "training": "default"}
ORDER = Order("run", "arm", 0, 1, "none", "1", NAMES, method="planning")
QUESTION = ask_for_fingerprint(ORDER, Release(min_subjects=4), 7)
SOUND = fingerprint([Image((30, 40, 20), (1.0, 1.0, 2.0), (3.0, 4.0))] * 5)


def content(found: Fingerprint = SOUND, **changes: Any) -> dict[str, Any]:
    parts = {f"{MEAN}{name}": each.astype("<f4").tobytes() for name, each in found.parts.items()}
    return {**parts, "subjects": found.subjects, "seconds": 1.0, **changes}


def read(flat: dict[str, Any], channels: int = 1, classes: int = 3) -> Fingerprint | Failure:
    reply = make_reply(QUESTION, {"config": ConfigRecord(flat)})
    return take(reply, lambda message: read_fingerprint(message, channels, classes))


def test_a_hospital_reads_the_question_as_any_other_for_a_description() -> None:
    order, names, release, variances = read_question(QUESTION)
    assert order.method == "planning" and order.names == NAMES
    assert names == (NAME,) and release == Release(min_subjects=4) and not variances


def test_a_sound_answer_is_read() -> None:
    found = read(content())
    assert isinstance(found, Fingerprint) and found.subjects == 5
    for name, each in SOUND.parts.items():
        assert np.allclose(found.parts[name], each, atol=1e-6)


def changed(name: str, place: Any, value: float) -> dict[str, Any]:
    part = SOUND.parts[name].copy()
    part[place] = value
    return content(**{f"{MEAN}{name}": part.astype("<f4").tobytes()})


HOSTILE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no patients": content(subjects=0),
    "too many patients": content(subjects=10**15),
    "patients that are no number": content(subjects="5"),
    "a fraction of a patient": content(subjects=2.5),
    "a part that is missing": {k: v for k, v in content().items() if k != f"{MEAN}shape"},
    "a part that is no bytes": content(**{f"{MEAN}shape": 3}),
    "a part that is too short": content(**{f"{MEAN}shape": b"\0" * 8}),
    "a part that is too long": content(**{f"{MEAN}shape": b"\0" * 2**20}),
    "NaN": changed("spacing", (0, 3), float("nan")),
    "infinity": changed("extent", (0, 3), float("inf")),
    "a huge share": changed("extent", (2, 0), 1e30),
    "a negative share": changed("intensity", (0, 0), -0.5),
    "more than all": changed("spacing", (1, 0), 1.0),
    "less than all": changed("classes", 0, 0.0),
    "a share of pictures beyond 1": changed("pictures", 0, 1.5),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_answer_is_that_hospitals_failure(what: str) -> None:
    found = read(HOSTILE[what])
    assert isinstance(found, Failure) and "refused" in found.reason


def test_an_answer_for_other_classes_or_channels_is_refused() -> None:
    for channels, classes in ((2, 3), (1, 4)):
        assert isinstance(read(content(), channels, classes), Failure)


def test_a_reply_without_scalars_is_refused() -> None:
    reply = Message(RecordDict({}), reply_to=QUESTION)
    assert isinstance(take(reply, lambda message: read_fingerprint(message, 1, 3)), Failure)
