"""Flower's Grid over our fleet: questions to hospitals, and their replies."""

import time
import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from polyclinic.errors import PolyclinicError
from polyclinic.federation.envelope import decode, encode, make_message
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import FRAME_BYTES, FaultCode
from polyclinic.fleet.wire.fleet_pb2 import Envelope, Fault
from polyclinic.system.text import clean
from polyclinic_server.fleet.post import Answered, Post
from polyclinic_server.fleet.sessions import Node

LOOK_S = 5.0  # longest wait of `send_and_receive` between two looks; news end it sooner


class FleetGrid(Grid):
    """The hospitals of a run; several threads may use it.

    Args:
        post: The way to them.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._run: Any = None

    def set_run(self, run: Any) -> None:
        """Keep Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """Flower's description of the run, if one was set."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a hospital."""
        return make_message(content, dst_node_id, message_type, ttl=ttl, group=group_id)

    def get_nodes(self) -> list[Node]:  # type: ignore[override]  # Flower's type is private
        """Return the hospitals that are online, by name."""
        return self._post.nodes()

    def get_node_ids(self) -> list[int]:
        """Return the numbers of the hospitals that are online, by name."""
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages, and return their identifiers; an empty one where the node is unknown.

        Raises:
            FrameInvalid: A message holds something that cannot travel.
            DiskFull: There is no room for the large contents.
        """
        contents: dict[int, Envelope] = {}  # messages that share their content: encoded once
        with self._post.writing() as store:
            questions = [self._envelope(message, contents, store) for message in messages]
            known = self._post.send(questions)
        return [each.message_id if yes else "" for each, yes in zip(questions, known, strict=True)]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived to these messages; each is returned once."""
        return [self._read(each) for each in self._post.take(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and wait for the replies, at most `timeout` seconds.

        Returns:
            Replies in the order of the messages. A hospital whose client was started again
            meanwhile has none.
        """
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        asked = [identifier for identifier in self.push_messages(messages) if identifier]
        replies: dict[str, Message] = {}
        waiting = asked
        while waiting:
            for reply in self.pull_messages(waiting):
                replies[reply.metadata.reply_to_message_id] = reply
            left_s = end - time.monotonic()
            waiting = self._post.open(waiting)
            if not waiting or left_s <= 0:
                break
            self.wait_for_news(min(left_s, LOOK_S))
        return [replies[identifier] for identifier in asked if identifier in replies]

    def wait_for_news(self, timeout_s: float) -> bool:
        """Wait until a reply arrived, or a hospital came or left, since this thread's last wait.

        Args:
            timeout_s: Longest wait, in seconds.

        Returns:
            Whether there is news.
        """
        return self._post.wait(timeout_s)

    def _envelope(
        self, message: Message, contents: dict[int, Envelope], store: BlobStore
    ) -> Envelope:
        key = id(message.content) if message.has_content() else id(message)
        if key not in contents:
            contents[key] = encode(message, store)
        metadata = message.metadata
        envelope = Envelope(
            message_id=uuid.uuid4().hex,
            type=metadata.message_type,
            group=metadata.group_id,
            created=time.time(),
            ttl_s=metadata.ttl,
            node=metadata.dst_node_id,
            run=metadata.run_id,
        )
        envelope.content.CopyFrom(contents[key].content)
        assert envelope.ByteSize() < FRAME_BYTES  # `encode` sees to it
        return envelope

    def _read(self, answered: Answered) -> Message:
        """Decode a reply; one that cannot be read is a fault of its hospital's."""
        reply = answered.envelope
        try:
            return decode(reply, answered.store)
        except (PolyclinicError, ValueError, TypeError) as error:
            reason = clean(f"the reply cannot be read: {error}")
            reply.fault.CopyFrom(Fault(code=FaultCode.REPLY_INVALID, reason=reason))
            return decode(reply, answered.store)
        finally:
            self._post.done(answered)
