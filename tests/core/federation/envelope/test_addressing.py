"""The one place that addresses messages: without a task of Flower's."""

from flwr.app import DEFAULT_TTL, ConfigRecord, Error, Message, RecordDict

from polyclinic.federation.envelope import identified, make_message

CONTENT = RecordDict({"config": ConfigRecord({"a": 1})})


def test_a_message_needs_no_task_of_flowers() -> None:
    message = make_message(CONTENT, 5, "query.hello", group="2")
    metadata = message.metadata

    assert message.content is CONTENT
    assert (metadata.dst_node_id, metadata.message_type, metadata.group_id) == (
        5,
        "query.hello",
        "2",
    )
    assert (metadata.ttl, metadata.message_id) == (DEFAULT_TTL, "")


def test_an_answer_finds_its_way_back() -> None:
    message = identified(make_message(CONTENT, 5, "query.hello", ttl=9.0), "m1")
    answer = Message(RecordDict(), reply_to=message)

    assert answer.metadata.reply_to_message_id == "m1"
    assert (answer.metadata.src_node_id, answer.metadata.dst_node_id) == (5, 1)
    assert answer.metadata.ttl <= 9.0


def test_an_error_keeps_its_text() -> None:
    question = make_message(CONTENT, 5, "train", message_id="m0")
    message = identified(Message(Error(2, "why"), reply_to=question), "m1")

    assert (message.error.code, message.error.reason) == (2, "why")
    assert (message.metadata.message_id, message.metadata.reply_to_message_id) == ("m1", "m0")
