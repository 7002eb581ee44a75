"""Flower's messages as envelopes of the fleet, and back.

What is small lies in the envelope; what is large lies beside it, as a blob that the envelope names.
"""

from polyclinic.federation.envelope.addressing import COORDINATOR, identified, make_message, wrap
from polyclinic.federation.envelope.mapped_array import (
    BufferArray,
    MappedArray,
    OpenFile,
    array_bytes,
    array_values,
    write_header,
)
from polyclinic.federation.envelope.reading import decode
from polyclinic.federation.envelope.writing import encode

__all__ = [
    "COORDINATOR",
    "BufferArray",
    "MappedArray",
    "OpenFile",
    "array_bytes",
    "array_values",
    "decode",
    "encode",
    "identified",
    "make_message",
    "wrap",
    "write_header",
]
