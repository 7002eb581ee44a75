"""Cost of a secure sum beside a plain one: bytes, and seconds at a hospital and the coordinator.

    python benchmarks/secure_sums.py [--hospitals 10] [--millions 25] [--gone 1]

Everything in one process and on one core; seconds are the processor's, so that others on the
machine do not count. A hospital's seconds are those of one hospital, since in a federation they
compute side by side. Messages are encoded into envelopes and blobs, as on the
wire, and decoded again, so the plain seconds hold what Flower and disk cost: each hospital's
weights as float32, encoded, decoded, checked as a round does, and averaged by Flower's FedAvg.
Hospitals that are gone dropped out after their keys were shared, which costs most.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from measuring import machine

from polyclinic.federation.answers import read_trained, trained_content
from polyclinic.federation.envelope import decode, encode, identified, make_message
from polyclinic.federation.envelope.content import (
    ARRAYS,
    CONFIG,
    WEIGHTS,
    unpack_message,
    weights_to_record,
)
from polyclinic.federation.grids.traffic import size_of
from polyclinic.federation.records import training_reply
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
    offered_reply,
    read_asked,
    read_offered,
    words_reply,
)
from polyclinic.federation.secure_sums.quantization import EXTRA
from polyclinic.federation.secure_sums.terms import Terms
from polyclinic.fleet.blobs import BlobStore
from polyclinic_strategies.averaging.addressed import addressed

RESULTS = Path(__file__).with_name("results")
TERMS = Terms("5e" * 16, 1.0, 24)
Value = TypeVar("Value")


class Measured:
    """A grid in memory: it encodes, decodes, counts bytes, and takes the hospitals' seconds."""

    def __init__(self, folder: Path, members: Mapping[str, Member], gone: set[str]) -> None:
        self._store = BlobStore(folder, 1 << 40)
        self._members, self._gone = members, gone
        self.bytes: dict[str, int] = dict.fromkeys(members, 0)
        self.seconds: dict[str, float] = dict.fromkeys(members, 0.0)

    def ask(
        self,
        kind: str,
        contents: Mapping[str, RecordDict],
        read: Callable[[str, Message], Value],
        minimum: int,
        phase: str = "",
    ) -> dict[str, Value]:
        """Let hospitals answer one after another."""
        del minimum, phase
        found = {}
        for site, content in contents.items():
            if site in self._gone and kind != SHARE:
                continue
            question = identified(make_message(content, 1, kind), "q")
            self.bytes[site] += size_of(content)
            start = time.process_time()
            reply = self._answer(self._members[site], kind, question)
            envelope = encode(reply, self._store)
            self.seconds[site] += time.process_time() - start
            self.bytes[site] += size_of(reply.content)
            found[site] = read(site, decode(envelope, self._store))
        return found

    def _answer(self, member: Member, kind: str, question: Message) -> Message:
        if kind == SHARE:
            shares = member.share(read_asked(ShareQuestion, question).offers())
            sealed = tuple(shares.sealed), tuple(shares.sealed.values())
            return answer(question, SharedAnswer(*sealed, shares.signature))
        if kind == MASK:
            asked = read_asked(MaskQuestion, question)
            sealed_by = dict(zip(asked.sites, asked.sealed, strict=True))
            signed = dict(zip(asked.sites, asked.signatures, strict=True))
            return words_reply(question, member.mask(sealed_by, signed))
        if kind == SURVIVE:
            names = read_asked(SurviveQuestion, question).sites
            return answer(question, SignedAnswer(member.survive(names)))
        assert kind == REVEAL
        over = read_asked(RevealQuestion, question)
        shares = member.reveal(dict(zip(over.sites, over.signatures, strict=True)))
        return answer(question, RevealedAnswer(tuple(shares), tuple(shares.values())))


def draw(numbers: int, seed: int) -> np.ndarray[Any, Any]:
    """Draw an update of float32."""
    drawn = np.random.default_rng(seed).standard_normal(numbers, dtype=np.float32)
    return drawn * np.float32(0.01)


def measure_plain(folder: Path, count: int, numbers: int) -> dict[str, float]:
    """Average by FedAvg, as a round does; return seconds of a hospital and of the coordinator."""
    store = BlobStore(folder, 1 << 40)
    asked = np.zeros(numbers, np.float32)
    sent = weights_to_record(torch.from_numpy(asked))
    question = identified(
        make_message(RecordDict({ARRAYS: sent, CONFIG: ConfigRecord({})}), 1, "train"), "q"
    )
    replies, theirs, ours, size = [], [], 0.0, 0
    for number in range(count):
        weights = torch.from_numpy(draw(numbers, number))
        start = time.process_time()
        reply = training_reply(question, weights, 10, 0.5, 1.0)
        envelope = encode(reply, store)
        theirs.append(time.process_time() - start)
        size += size_of(reply.content)
        start = time.process_time()
        received = unpack_message(decode(envelope, store))
        received.content = trained_content(read_trained(received, sent[WEIGHTS]), 10)
        replies.append(received)
        ours += time.process_time() - start
    start = time.process_time()
    strategy = addressed(FedAvg())
    strategy.folder = folder  # type: ignore[attr-defined]
    strategy.aggregate_train(1, replies)
    ours += time.process_time() - start
    return {"hospital_s": median(theirs), "coordinator_s": ours, "bytes": size}


def measure_secure(folder: Path, count: int, numbers: int, gone: int) -> dict[str, float]:
    """Take a secure sum; return the same, and check it against the sum in the clear."""
    words: dict[str, Words] = {}
    quantizing = []
    for number in range(count):
        update = draw(numbers, number)
        start = time.process_time()
        words[f"h{number:03}"] = TERMS.grid.with_losses(TERMS.grid.quantize(update))
        quantizing.append(time.process_time() - start)
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(count)]
    members = {
        site: Member(site, key, b"", TERMS, each)
        for (site, each), key in zip(words.items(), keys, strict=True)
    }
    lost = set(list(words)[:gone])
    grid = Measured(folder, members, lost)
    offers = {}
    for site, member in members.items():
        question = identified(make_message(RecordDict({}), 1, "train.sum"), "q")
        start = time.process_time()
        reply = offered_reply(question, member.offer(), {"num-examples": 1, "loss": 0.5})
        grid.seconds[site] += time.process_time() - start
        grid.bytes[site] += size_of(reply.content)
        found = read_offered(site, reply, numbers + EXTRA, masked=True).offer
        assert found is not None
        offers[site] = found
    collector = Collector(TERMS, numbers + EXTRA)
    start = time.process_time()
    total = take_sum(grid, collector, offers, {"server-round": 1})
    everything = time.process_time() - start
    start = time.process_time()
    TERMS.grid.mean(total[:-EXTRA], len(collector.survivors), np.zeros(numbers, np.float32))
    coordinator = everything - sum(grid.seconds.values()) + time.process_time() - start
    clear = np.zeros(numbers + EXTRA, np.uint32)
    for site in collector.survivors:
        clear += words[site]
    assert np.array_equal(total, clear), "the sum is not the one in the clear"
    there = [site for site in members if site not in lost]
    return {
        "hospital_s": median(grid.seconds[site] for site in there) + median(quantizing),
        "of_that_quantizing_s": median(quantizing),
        "coordinator_s": coordinator,
        "bytes": sum(grid.bytes[site] for site in there),
        "bytes_to_quantized": sum(grid.bytes[site] for site in there) / (4 * numbers * len(there)),
    }


def main() -> None:
    """Measure, print, and write results/secure_sums-HOSPITALSxMILLIONS.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--millions", type=float, default=25)
    parser.add_argument("--gone", type=int, default=1)
    asked = parser.parse_args()
    numbers = int(asked.millions * 1_000_000)
    found: dict[str, Any] = {"machine": machine(), **vars(asked)}
    with tempfile.TemporaryDirectory(prefix="secure-sums-") as name:
        found["plain"] = measure_plain(Path(name) / "plain", asked.hospitals, numbers)
        for gone in sorted({0, asked.gone}):
            folder = Path(name) / f"gone-{gone}"
            found[f"secure, {gone} gone"] = measure_secure(folder, asked.hospitals, numbers, gone)
    plain = found["plain"]["hospital_s"] + found["plain"]["coordinator_s"]
    for gone in sorted({0, asked.gone}):
        each = found[f"secure, {gone} gone"]
        each["seconds_to_plain"] = (each["hospital_s"] + each["coordinator_s"]) / plain
    found["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"secure_sums-{asked.hospitals}x{asked.millions:g}.json"
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
