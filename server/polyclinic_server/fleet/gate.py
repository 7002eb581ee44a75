"""Who is let through to Flower's Fleet API: every call must show an enrolled key, and is then that key's site, whatever it says of itself.

Flower's own node authentication knows keys that were registered one by one on a running SuperLink, and forgets them with it. The gate
asks the registry instead: a key that is enrolled is registered with Flower when its hospital first calls, under the site's name, and a
key that is revoked is refused from its next call on.
"""

from collections.abc import Callable
from typing import Any

import grpc
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
    NodeAuthServerInterceptor,
)
from flwr.server.superlink.linkstate import LinkStateFactory

from polyclinic.security.admission_errors import HANDSHAKE, PUBLIC_KEY_HEADER, AdmissionRefused
from polyclinic_server.enrolment.admission import admit, handshake_answer
from polyclinic_server.enrolment.registry import Enrolled, Registry


class Gate(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Stands before the Fleet API and answers a knock.

    Args:
        registry: Whose keys are enrolled; None lets everybody in (loopback).
        state_factory: Flower's state, where a site's key becomes a node.
        instance: What tells this SuperLink from the one before it.
    """

    def __init__(
        self, registry: Registry | None, state_factory: LinkStateFactory, instance: str
    ) -> None:
        self._registry = registry
        self._state_factory = state_factory
        self._instance = instance
        self._flower = NodeAuthServerInterceptor(state_factory)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Part of gRPC's interface: the handler of this call, or one that refuses it."""
        if self._registry is None:
            return (
                self._answer_knock("")
                if details.method == HANDSHAKE
                else self._flower.intercept_service(continuation, details)
            )
        metadata = dict(details.invocation_metadata)
        try:
            enrolled = admit(self._registry, metadata)
        except AdmissionRefused as refusal:
            return _refuse(refusal)
        if details.method == HANDSHAKE:
            return self._answer_knock(enrolled.site)
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        key = metadata[PUBLIC_KEY_HEADER]
        if details.method.endswith("/ActivateNode"):
            return self._activate(handler, key, enrolled)
        return self._flower._wrap_method_handler(handler, key)

    def _activate(self, handler: Any, key: bytes, enrolled: Enrolled) -> Any:
        """Register the site's key with Flower; a hospital that comes back takes its own place again at once.

        Flower would refuse it until the lease of its former process has run out.
        """

        def activate(request: Any, context: Any) -> Any:
            if request.public_key != key:
                context.abort(
                    grpc.StatusCode.UNAUTHENTICATED, "the node's key is another than the caller's"
                )
            state = self._state_factory.state()
            node = state.get_node_id_by_public_key(key)
            if node is None:
                state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=enrolled.site)
            else:
                state.deactivate_node(node)
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            activate, handler.request_deserializer, handler.response_serializer
        )

    def _answer_knock(self, site: str) -> Any:
        def answer(_request: bytes, _context: Any) -> bytes:
            return handshake_answer(site, self._instance)

        return grpc.unary_unary_rpc_method_handler(answer)


def _refuse(refusal: AdmissionRefused) -> Any:
    """Say no before the request's body is read: a handler of a stream is called at once."""

    def refuse(_requests: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal.pack())

    return grpc.stream_unary_rpc_method_handler(refuse)
