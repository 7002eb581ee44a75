"""The coordinator's side, with messages as they lie in its store: nowhere is a single vector."""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from polyclinic.errors import TooFewHospitals
from polyclinic.federation.envelope import decode, encode, identified, make_message
from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.exchange import take_sum
from polyclinic.federation.secure_sums.masks import Words
from polyclinic.federation.secure_sums.member import Member
from polyclinic.federation.secure_sums.messages import (
    MASK,
    REVEAL,
    SHARE,
    SURVIVE,
    MaskQuestion,
    RevealedAnswer,
    RevealQuestion,
    SharedAnswer,
    ShareQuestion,
    SignedAnswer,
    SurviveQuestion,
    answer,
    read_asked,
    words_reply,
)
from polyclinic.fleet.blobs import BlobStore
from tests.core.federation.secure_sums.hospitals import TERMS, added, members, vectors

NUMBERS = 50_000
Value = TypeVar("Value")


class StoringGrid:
    """Hospitals in memory, whose answers lie in a store on their way."""

    def __init__(self, folder: Path, hospitals: Mapping[str, Member], silent: set[str]) -> None:
        self._store, self._hospitals, self._silent = BlobStore(folder), hospitals, silent
        self.envelopes: list[bytes] = []

    def ask(
        self,
        kind: str,
        contents: Mapping[str, RecordDict],
        read: Callable[[str, Message], Value],
        minimum: int,
        phase: str = "",
    ) -> dict[str, Value]:
        found = {}
        for site, content in contents.items():
            if site in self._silent and kind == MASK:
                continue
            question = identified(make_message(content, 1, kind), "q")
            envelope = encode(reply_of(self._hospitals[site], kind, question), self._store)
            self.envelopes.append(envelope.SerializeToString())
            found[site] = read(site, decode(envelope, self._store))
        if len(found) < minimum:
            raise TooFewHospitals(phase or kind, sorted(found), [], minimum, 0.0)
        return found


def reply_of(member: Member, kind: str, question: Message) -> Message:
    if kind == SHARE:
        shares = member.share(read_asked(ShareQuestion, question).offers())
        sealed = tuple(shares.sealed), tuple(shares.sealed.values())
        return answer(question, SharedAnswer(*sealed, shares.signature))
    if kind == MASK:
        asked = read_asked(MaskQuestion, question)
        signed = dict(zip(asked.sites, asked.signatures, strict=True))
        return words_reply(
            question, member.mask(dict(zip(asked.sites, asked.sealed, strict=True)), signed)
        )
    if kind == SURVIVE:
        return answer(
            question, SignedAnswer(member.survive(read_asked(SurviveQuestion, question).sites))
        )
    assert kind == REVEAL
    over = read_asked(RevealQuestion, question)
    shares = member.reveal(dict(zip(over.sites, over.signatures, strict=True)))
    return answer(question, RevealedAnswer(tuple(shares), tuple(shares.values())))


def test_store_and_memory_hold_no_single_vector(tmp_path: Path) -> None:
    words = vectors(10, NUMBERS)
    hospitals = members(words)
    grid = StoringGrid(tmp_path, hospitals, {"h2", "h7"})
    collector = Collector(TERMS, NUMBERS)
    offers = {site: each.offer() for site, each in hospitals.items()}
    total = take_sum(grid, collector, offers, {"server-round": 1})
    np.testing.assert_array_equal(total, added(words, collector.survivors))
    assert collector.survivors == [site for site in words if site not in ("h2", "h7")]

    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    stored = b"".join([path.read_bytes() for path in kept] + grid.envelopes)
    assert len(stored) > 8 * 4 * NUMBERS  # the masked vectors are there
    for each in words.values():
        for start in range(0, NUMBERS, 5000):
            assert each[start : start + 4].tobytes() not in stored
    held = list(arrays_below(collector))
    assert len(held) == 1 and held[0] is total


def arrays_below(thing: object) -> list[Words]:
    """Return every array that an object leads to."""
    seen: set[int] = set()
    found: list[Words] = []
    waiting: list[Any] = [thing]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        if isinstance(each, np.ndarray):
            found.append(each)
        elif isinstance(each, dict | list | tuple | set) or hasattr(each, "__dict__"):
            waiting += gc.get_referents(each)
    return found


def test_bytes_are_those_of_the_quantized_vectors(tmp_path: Path) -> None:
    words = vectors(10, NUMBERS)
    hospitals = members(words)
    grid = StoringGrid(tmp_path, hospitals, set())
    take_sum(
        grid,
        Collector(TERMS, NUMBERS),
        {site: each.offer() for site, each in hospitals.items()},
        {"server-round": 1},
    )
    sent = sum(map(len, grid.envelopes)) + sum(
        path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()
    )
    assert sent <= 1.1 * sum(each.nbytes for each in words.values())


def test_too_few_masked_vectors_end_the_sum(tmp_path: Path) -> None:
    hospitals = members(vectors(10))
    grid = StoringGrid(tmp_path, hospitals, {"h0", "h1", "h2", "h3"})
    with pytest.raises(TooFewHospitals):
        take_sum(
            grid,
            Collector(TERMS, 1000),
            {site: each.offer() for site, each in hospitals.items()},
            {"server-round": 1},
        )
