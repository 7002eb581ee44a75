"""A signature proves one key, to one coordinator, once."""

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from polyclinic.fleet.challenge import (
    NONCE_BYTES,
    new_nonce,
    sign,
    statement,
    verify,
)
from polyclinic.fleet.wire.fleet_pb2 import Proof
from polyclinic.security.admission_errors import SignatureInvalid
from polyclinic.security.keys import authority_digest, fingerprint
from polyclinic_server.enrolment.authority import Authority

TIME = 1_790_000_000.25


@dataclass(frozen=True)
class Facts:
    nonce: bytes = bytes(range(NONCE_BYTES))
    authority: bytes = bytes(32)
    site: str = "st-mary"
    protocol: int = 1


@pytest.fixture(scope="module")
def key() -> Iterator[ec.EllipticCurvePrivateKey]:
    yield ec.generate_private_key(ec.SECP384R1())


def signed(key: ec.EllipticCurvePrivateKey, facts: Facts) -> Proof:
    return sign(key, facts.nonce, facts.authority, facts.site, facts.protocol, TIME)


def verified(proof: Proof, facts: Facts) -> str:
    return fingerprint(verify(proof, facts.nonce, facts.authority, facts.site, facts.protocol))


def test_a_signed_challenge_names_its_key(key: ec.EllipticCurvePrivateKey) -> None:
    proof = Proof.FromString(signed(key, Facts()).SerializeToString())
    assert verified(proof, Facts()) == fingerprint(key.public_key())


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": bytes(NONCE_BYTES)},
        {"authority": b"\1" + bytes(31)},
        {"site": "st-john"},
        {"protocol": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_it_is_worth_nothing_with_other_facts(
    key: ec.EllipticCurvePrivateKey, change: dict[str, object]
) -> None:
    proof = signed(key, Facts())
    with pytest.raises(SignatureInvalid):
        verified(proof, dataclasses.replace(Facts(), **change))  # type: ignore[arg-type]


def test_the_time_is_signed_as_well(key: ec.EllipticCurvePrivateKey) -> None:
    proof = signed(key, Facts())
    proof.time += 1
    with pytest.raises(SignatureInvalid):
        verified(proof, Facts())


def test_another_key_beside_the_signature_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    other = signed(ec.generate_private_key(ec.SECP384R1()), Facts())
    proof = signed(key, Facts())
    proof.key = other.key
    with pytest.raises(SignatureInvalid):
        verified(proof, Facts())


@pytest.mark.parametrize("shown", [b"", b"ssh", b"-----BEGIN PUBLIC KEY-----", b"\xff" * 3000])
def test_what_is_no_key_is_refused_and_called_unreadable(shown: bytes) -> None:
    with pytest.raises(SignatureInvalid) as raised:
        verify(Proof(key=shown, signature=b"x", time=TIME), bytes(32), bytes(32), "a", 1)
    assert raised.value.facts["key"] == "unreadable"


def test_random_proofs_are_refused_and_nothing_else_happens(
    key: ec.EllipticCurvePrivateKey,
) -> None:
    dice = random.Random(0)
    whole = signed(key, Facts())
    for _ in range(300):
        proof = Proof()
        proof.CopyFrom(whole)
        field = dice.choice(["key", "signature"])
        content = bytearray(getattr(proof, field))
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        setattr(proof, field, bytes(content[: dice.randrange(len(content))]))
        with pytest.raises(SignatureInvalid):
            verified(proof, Facts())


def test_no_two_tuples_of_facts_give_the_same_bytes() -> None:
    one = statement(b"ab", b"c", "d", 1, TIME)
    assert statement(b"a", b"bc", "d", 1, TIME) != one
    assert statement(b"ab", b"cd", "", 1, TIME) != one
    assert statement(b"ab", b"", "cd", 1, TIME) != one


def test_only_a_whole_nonce_is_signed(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(ValueError, match="a nonce has 32 bytes, this one 5"):
        sign(key, b"short", bytes(32), "st-mary", 1, TIME)
    assert new_nonce() != new_nonce()
    assert len(new_nonce()) == NONCE_BYTES


def test_two_authorities_have_two_digests(tmp_path: Path) -> None:
    one, other = (
        Authority.create(tmp_path / name, ["localhost"], 9092).ca() for name in ("one", "other")
    )
    assert authority_digest(one) == authority_digest(one + "\n")
    assert authority_digest(one) != authority_digest(other)
    with pytest.raises(ValueError):
        authority_digest("no certificate")
