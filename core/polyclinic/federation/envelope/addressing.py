"""The one place that addresses messages.

`Message(content, dst_node_id=...)` asks Flower which of its tasks sends the message, and raises
where Flower started none. `Metadata` is as public and asks nothing.
tests/core/federation/envelope/test_addressing.py fails when Flower changes it.
"""

import time

from flwr.app import DEFAULT_TTL, Error, Message, Metadata, RecordDict

COORDINATOR = 1  # Flower's own number of the node that asks
RUN = 1  # a coordinator has one run at a time


def make_message(
    content: RecordDict,
    node: int,
    message_type: str,
    *,
    ttl: float | None = None,
    group: str = "",
    run: int = RUN,
    message_id: str = "",
) -> Message:
    """Make a question to a hospital.

    Args:
        content: What it carries.
        node: Number of the hospital's node.
        message_type: What the hospital does with it, for example "train" or "query.hello".
        ttl: Seconds for which it is worth an answer; None for Flower's default.
        group: Flower's strategies write the round here.
        run: Number of the run.
        message_id: Its identifier; empty until a grid gives it one.
    """
    metadata = Metadata(
        run_id=run,
        message_id=message_id,
        src_node_id=COORDINATOR,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=group,
        created_at=time.time(),
        ttl=DEFAULT_TTL if ttl is None else ttl,
        message_type=message_type,
    )
    return wrap(content, metadata)


def identified(message: Message, message_id: str) -> Message:
    """Copy a message's frame around the same content, with another identifier."""
    sent = message.metadata
    metadata = Metadata(
        run_id=sent.run_id,
        message_id=message_id,
        src_node_id=sent.src_node_id,
        dst_node_id=sent.dst_node_id,
        reply_to_message_id=sent.reply_to_message_id,
        group_id=sent.group_id,
        created_at=sent.created_at,
        ttl=sent.ttl,
        message_type=sent.message_type,
    )
    return wrap(message.content if message.has_content() else message.error, metadata)


def wrap(content: RecordDict | Error, metadata: Metadata) -> Message:
    """Make a message with any metadata."""
    return Message(content, metadata=metadata)  # type: ignore[call-overload, no-any-return]
