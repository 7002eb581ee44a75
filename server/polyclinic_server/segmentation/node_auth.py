"""Stands before the segmentation service: asks every call for an enrolled key, and answers a knock."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from polyclinic.security.admission_errors import KNOCK, SITE_HEADER, AdmissionRefused
from polyclinic.security.kit import SITE_NAME
from polyclinic_server.enrolment.admission import admit, knock_answer
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.segmentation.service import CALLER

HEALTH_CHECK = "/grpc.health.v1.Health/Check"  # the one call that needs no key: probes have none
ANYBODY = "anybody"


class SegmentationGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets calls of enrolled keys through, as their sites.

    Args:
        registry: Whose keys are enrolled; None lets everybody in (loopback), by the name that they
            say.
        instance: What tells this service from the one before it.
    """

    def __init__(self, registry: Registry | None, instance: str) -> None:
        self._registry = registry
        self._instance = instance

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Part of gRPC's interface: the handler of this call, or one that refuses it."""
        if details.method == HEALTH_CHECK:
            return await continuation(details)
        metadata = dict(details.invocation_metadata)
        if self._registry is None:
            said = metadata.get(SITE_HEADER, "")
            site, known = said if SITE_NAME.fullmatch(said) else ANYBODY, ""
        else:
            try:
                site = known = (await asyncio.to_thread(admit, self._registry, metadata)).site
            except AdmissionRefused as refusal:
                return _refuse(refusal)
        if details.method == KNOCK:
            return self._answer_knock(known)
        CALLER.set(site)
        return await continuation(details)

    def _answer_knock(self, site: str) -> Any:
        async def answer(_request: bytes, _context: Any) -> bytes:
            return knock_answer(site, self._instance)

        return grpc.unary_unary_rpc_method_handler(answer)


def _refuse(refusal: AdmissionRefused) -> Any:
    """Say no before the request's body is read: a handler of a stream is called at once."""

    async def refuse(_requests: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal.pack())

    return grpc.stream_stream_rpc_method_handler(refuse)
