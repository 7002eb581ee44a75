"""Parts of an answer, however the network cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic_client.dicom.multipart import boundary_of, read_parts

BOUNDARY = b"part-7"
HEADER = b"Content-Type: application/dicom\r\n\r\n"


def answer(contents: list[bytes], preamble: bytes = b"") -> bytes:
    """Return the bytes of a whole answer."""
    body = b"".join(b"--" + BOUNDARY + b"\r\n" + HEADER + each + b"\r\n" for each in contents)
    return preamble + body + b"--" + BOUNDARY + b"--\r\n"


def cut(whole: bytes, size: int) -> list[bytes]:
    """Return an answer in pieces."""
    return [whole[at : at + size] for at in range(0, len(whole), size)]


PIECES = st.lists(
    st.one_of(st.binary(max_size=60), st.just(b"\r\n--part-"), st.just(b"\r\n\r\n--")), max_size=5
)


@given(PIECES, st.integers(1, 90), st.sampled_from([b"", b"before\r\n"]))
def test_the_parts_are_those_that_were_sent(
    contents: list[bytes], size: int, preamble: bytes
) -> None:
    pieces = cut(answer(contents, preamble), size)
    assert [bytes(each) for each in read_parts(pieces, BOUNDARY)] == contents


@given(st.integers(1, 90), st.integers(0, 200))
def test_an_answer_that_ends_too_early_is_no_whole_one(size: int, kept: int) -> None:
    whole = answer([b"a" * 30, b"b" * 40])
    short = whole[: min(kept, len(whole) - 4)]
    with pytest.raises(ValueError, match="too early"):
        list(read_parts(cut(short, size), BOUNDARY))


def test_a_part_without_a_header_is_refused() -> None:
    with pytest.raises(ValueError, match="header"):
        list(read_parts([b"--part-7\r\nnothing\r\n--part-7--"], BOUNDARY))


def test_the_boundary_stands_in_the_content_type() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    for wrong in ("", "text/html", "multipart/related", "application/dicom; boundary=a"):
        with pytest.raises(ValueError, match="multipart"):
            boundary_of(wrong)
