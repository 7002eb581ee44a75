"""Masks: keystreams of ChaCha20 that are added to a vector of words modulo 2^32.

A pair of hospitals agrees on a key by X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869). One of the two
adds the keystream (RFC 8439) and the other subtracts it, so that it cancels in their sum.
"""

import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Words = np.ndarray[Any, np.dtype[np.uint32]]
SEED_BYTES = KEY_BYTES = 32
CHUNK_WORDS = 1 << 16  # 256 KiB: stays in a core's cache
MOST_WORDS = 2**32 * 16  # keystream of one key: 2^32 blocks of 64 bytes


def new_seed() -> bytes:
    """Draw a seed from the operating system's randomness."""
    return secrets.token_bytes(SEED_BYTES)


def new_secret() -> bytes:
    """Draw a private key for `agree`."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(secret: bytes) -> bytes:
    """Return the public half of a private key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes, purpose: bytes) -> bytes:
    """Return the key that two hospitals have in common, for one purpose.

    Args:
        secret: One's own private key.
        public: The other's public key.
        purpose: Equal on both sides; another purpose gives another key.

    Raises:
        ValueError: The public key is none, or of small order.
    """
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(shared)


def add_mask(words: Words, seed: bytes, *, negative: bool = False) -> None:
    """Add a seed's keystream to words in place, modulo 2^32; or subtract it.

    Args:
        words: Any number of words, contiguous.
        seed: Key of ChaCha20, 32 bytes, used for this alone.
        negative: Whether to subtract.
    """
    if words.size > MOST_WORDS:
        raise ValueError(f"{words.size} words, a key is good for {MOST_WORDS}")
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    change = np.subtract if negative else np.add
    zeros, key = bytes(4 * CHUNK_WORDS), np.empty(CHUNK_WORDS, dtype="<u4")
    room = key.data.cast("B")
    for start in range(0, words.size, CHUNK_WORDS):
        part = words[start : start + CHUNK_WORDS]
        size = 4 * part.size
        stream.update_into(memoryview(zeros)[:size], room)
        change(part, key[: part.size], out=part)
