"""Authentication of calls to the segmentation service by enrolled keys, and handshakes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from polyclinic.security.admission_errors import HANDSHAKE, SITE_HEADER, AdmissionRefused
from polyclinic.security.kit import SITE_NAME
from polyclinic_server.enrolment.admission import admit, handshake_answer
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.segmentation.service import CALLER

HEALTH_CHECK = "/grpc.health.v1.Health/Check"  # the only call without a key: probes have none
ANYBODY = "anybody"


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets calls with enrolled keys pass, as their sites.

    Args:
        registry: Enrolled keys; None accepts everybody (on loopback), by the name that they state.
        instance: Identifier of this start of the service.
        authority: `authority_digest` of the authority that hospitals have in their kits.
    """

    def __init__(self, registry: Registry | None, instance: str, authority: bytes) -> None:
        self._registry = registry
        self._authority = authority
        self._instance = instance

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Return the handler of this call, or one that refuses it; part of gRPC's interface."""
        if details.method == HEALTH_CHECK:
            return await continuation(details)
        metadata = dict(details.invocation_metadata)
        if self._registry is None:
            said = metadata.get(SITE_HEADER, "")
            site, known = said if SITE_NAME.fullmatch(said) else ANYBODY, ""
        else:
            try:
                admitting = asyncio.to_thread(admit, self._registry, metadata, self._authority)
                site = known = (await admitting).site
            except AdmissionRefused as refusal:
                return _refuse(refusal)
        if details.method == HANDSHAKE:
            return self._answer_handshake(known)
        CALLER.set(site)
        return await continuation(details)

    def _answer_handshake(self, site: str) -> Any:
        async def answer(_request: bytes, _context: Any) -> bytes:
            return handshake_answer(site, self._instance)

        return grpc.unary_unary_rpc_method_handler(answer)


def _refuse(refusal: AdmissionRefused) -> Any:
    """Return a handler that refuses before the request's body is read.

    A stream's handler is called at once.
    """

    async def refuse(_requests: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal.pack())

    return grpc.stream_stream_rpc_method_handler(refuse)
