"""The journal of answers that Flower's own SuperNode carries away, where no line of ours does."""

from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from flwr.app import Array, Context, Message

from polyclinic.federation.records import config_of
from polyclinic_client.policy.asked import read_asked
from polyclinic_client.policy.gate import leave
from polyclinic_client.sent.epsilon import epsilon_of
from polyclinic_client.sent.journal import FILE, Journal, Leaving
from polyclinic_client.sent.kinds import ANSWERS
from polyclinic_client.sent.ways import LEAVES


def by_flower(
    message: Message, context: Context, work: Callable[[Message, Context], Message]
) -> Message:
    """Write an answer into the journal that Flower's own SuperNode will carry away.

    Raises:
        NotAllowed, PolicyDamaged: The policy does not allow any more that it leaves.
        DiskFull, StorageFailed, JournalDamaged: The journal cannot be written.
    """
    reply = work(message, context)
    if LEAVES in context.node_config or "state" not in context.node_config:
        return reply
    state, kind = Path(str(context.node_config["state"])), message.metadata.message_type
    asked = read_asked(config_of(message))
    leave(state, asked, kind)
    size, digest = content_digest(reply)
    told = ANSWERS.get(kind, kind)
    Journal(state / FILE).append(
        Leaving(
            *(told, size, digest, "Flower's SuperNode"),
            *(asked.run, asked.strategy, asked.round, epsilon_of(told, asked, state)),
        )
    )
    return reply


def content_digest(message: Message) -> tuple[int, str]:
    """Return the number of bytes of a message's content, and their BLAKE3.

    The bytes are those of each record's name, and of each of its names and values, in order: an
    array's as Flower holds it, every other value's as Python writes it. Flower's own wrapping is
    not part of them.
    """
    digest, size = blake3(), 0
    for name, record in message.content.items():
        pieces = [name.encode()]
        for key, value in record.items():
            held = value.data if isinstance(value, Array) else repr(value).encode()
            pieces += [key.encode(), bytes(held)]
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()
