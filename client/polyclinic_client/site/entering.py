"""The gate of the ClientApp: every message passes it before anything is read."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from flwr.app import Context, Message

from polyclinic.errors import ConfigError
from polyclinic.federation.method import methods
from polyclinic.federation.records import Hello, config_of, hello_reply
from polyclinic.system.faults import shareable
from polyclinic_client.policy.asked import Asked, read_asked
from polyclinic_client.policy.gate import TRAINING, enter
from polyclinic_client.site.status import WORKER, StatusFile

HELLO = "query.hello"


def at_the_gate(
    message: Message, context: Context, work: Callable[[Message, Context], Message]
) -> Message:
    """Let a question in if the hospital's policy allows it, before anything is read.

    Raises:
        NotAllowed: It does not. A greeting is answered with the reason instead.
        PolicyDamaged: The policy cannot be read.
        ConfigError: The question cannot be read.
    """
    if "state" not in context.node_config:
        return work(message, context)  # who opens the hospital says what is missing
    state, kind = Path(str(context.node_config["state"])), message.metadata.message_type
    try:
        asked = read_asked(config_of(message))
        trains = kind in TRAINING or (kind == HELLO and _trains(asked))
        enter(state, asked, trains=trains, kind=kind)
    except ConfigError as error:
        if kind != HELLO:
            raise
        StatusFile(state / WORKER).write("refused", {"reason": str(error)}, force=True)
        site = str(context.node_config.get("site", ""))
        return hello_reply(message, Hello(site, version("polyclinic"), {}, "", shareable(error)))
    return work(message, context)


def _trains(asked: Asked) -> bool:
    method = methods().get(asked.method)
    return method is None or method.trains
