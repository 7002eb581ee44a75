"""Parts of a multipart answer (RFC 2046), as they come: one part is in memory at a time."""

from collections.abc import Iterable, Iterator
from email.message import Message

END = b"\r\n\r\n"  # of a part's header
MOST_HEADER = 2**16


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that an answer's Content-Type names.

    Raises:
        ValueError: It is no multipart answer, or names none.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        raise ValueError("no multipart answer")
    return boundary.encode()


def read_parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[memoryview]:
    """Yield the content of each part, without its header.

    Args:
        chunks: The answer's bytes, in pieces of any length.
        boundary: What parts the parts.

    Raises:
        ValueError: The answer ends before its last part does, or is none of this kind.
    """
    mark = b"\r\n--" + boundary
    data = bytearray(b"\r\n")  # what comes before the first mark may be empty
    searched, begun = 0, False
    for chunk in chunks:
        data += chunk
        while (at := data.find(mark, searched)) >= 0:
            rest = at + len(mark)
            if len(data) < rest + 2:  # whether it is the last mark stands in the next piece
                searched = at
                break
            if begun:
                yield _content(bytes(data[:at]))
            if data[rest : rest + 2] == b"--":
                return
            del data[:rest]
            begun, searched = True, 0
        else:
            searched = max(0, len(data) - len(mark) + 1)
    raise ValueError("the answer ends too early")


def _content(part: bytes) -> memoryview:
    head = part.find(END, 0, MOST_HEADER)
    if head < 0:
        raise ValueError("a part without a header")
    return memoryview(part)[head + len(END) :]
