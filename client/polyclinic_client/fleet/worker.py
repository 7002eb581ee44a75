"""Resident worker: it runs the installed ClientApp, a message at a time, with torch imported once.

Flower's own executor would start a process for every message and unpack and run the code bundle
that the coordinator sent. This one takes a task from the SuperNode's Runtime API (HTTP on loopback,
with a secret), calls `polyclinic_client.fleet.app.app`, and returns the reply; what arrives is
data, never code. An exception's text may hold a patient's file name: only its type travels, unless
it is one of our own `shareable` sentences.
"""

import logging
import time
from pathlib import Path

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    pull_objects,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from polyclinic.errors import PolyclinicError
from polyclinic.system.processes import PROMPT, end_with_parent, pause_s

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
# seconds to wait for a SuperNode that does not answer, such as after an idle connection was closed
PATIENCE_S = 30.0
pull_objects.__kwdefaults__.update(PROMPT)  # type: ignore[union-attr]
pull_and_inflate_object_from_tree.__kwdefaults__.update(PROMPT)  # type: ignore[union-attr]
log = logging.getLogger("polyclinic.worker")


def serve(runtime: str, secret: bytes, app: ClientApp) -> None:
    """Take task after task, without end."""
    acquirer = _client(
        runtime,
        SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE}),
        0.0,
    )
    since = time.monotonic()
    while True:
        token = _acquire(acquirer)
        if token:
            _execute(runtime, token, app)
            since = time.monotonic()
        time.sleep(pause_s(time.monotonic() - since, 0.05, 0.5))


def _acquire(client: RuntimeHttpClient) -> str:
    """Ask for the token of a waiting task; return nothing where there is none."""
    try:
        return str(
            client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"])).token
        )
    except httpx.TransportError:
        return ""  # the SuperNode is starting, or being started again


def _execute(runtime: str, token: str, app: ClientApp) -> None:
    """Do one task: pull the message, call the app, push the reply.

    A reply that is lost half-way would leave the SuperNode waiting for the rest: then this process
    ends, and the client starts both again.
    """
    client = _client(runtime, RuntimeTokenHttpInterceptor(token), PATIENCE_S)
    heartbeat = HeartbeatSender(lambda: _beat(client))
    context: Context | None = None
    status, details = SubStatus.FAILED, ""
    heartbeat.start()
    try:
        message, context, _, _ = pull_task_input(client)
        reply = _answer(app, message, context)
        try:
            push_message(client, reply, context)
        except ObjectPushError:
            # the coordinator had this part already; the SuperNode has sent the rest, and forgot it
            log.info("a part of the reply was not needed")
        if not reply.has_error():
            status = SubStatus.COMPLETED
    finally:
        heartbeat.stop()
        push_task_output(client, context, status, details)
        client.close()


def _answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Return the app's reply, or an error that says no more than it may."""
    start = time.monotonic()
    try:
        reply = app(message=message, context=context)
    except Exception as error:
        log.exception("%s failed", message.metadata.message_type)
        reply = Message(
            Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, describe(error)), reply_to=message
        )
    log.info("%s took %.2f s", message.metadata.message_type, time.monotonic() - start)
    return reply


def describe(error: BaseException) -> str:
    """Return what of an error may leave the hospital."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, PolyclinicError) and error.shareable else name


def _client(
    runtime: str,
    interceptor: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor,
    patience_s: float,
) -> RuntimeHttpClient:
    """Make a client whose retries only bridge gaps.

    Flower's own retries would interrupt this process when a token has expired.
    """
    retry = RetryInvoker(
        lambda: exponential(0.1, max_delay=2),
        httpx.TransportError,
        max_tries=None,
        max_time=patience_s,
    )
    interceptors = [RuntimeVersionHttpInterceptor("flwr-clientapp"), interceptor]
    return RuntimeHttpClient.from_server_address(
        runtime, True, None, interceptors, retry_invoker=retry if patience_s else None
    )


def _beat(client: RuntimeHttpClient) -> bool:
    """Send one heartbeat; Flower's own would interrupt this process when a token has expired."""
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except httpx.HTTPStatusError:
        return True
    except httpx.TransportError:
        return False
    return True


def main() -> None:
    """Run `python -m polyclinic_client.fleet.worker RUNTIME SECRET_FILE`."""
    import sys

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    end_with_parent()
    from polyclinic_client.fleet.app import app

    serve(sys.argv[1], Path(sys.argv[2]).read_bytes(), app)


if __name__ == "__main__":
    main()
