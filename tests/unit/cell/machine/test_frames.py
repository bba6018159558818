"""Frames of the port, fed as they come and as no honest guest sends them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.cell.machine.frames import (
    COMMAND_MAX,
    PAYLOAD_BYTES_MAX,
    STREAMS,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    in_parts,
    pack,
)

FRAMES = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    command=st.integers(0, COMMAND_MAX),
    payload=st.binary(max_size=200),
    stream=st.sampled_from(STREAMS),
)


def header(kind: int = 18, stream: int = 1, zero: int = 0, command: int = 1, length: int = 0) -> bytes:
    """Return a header with these fields, right or wrong."""
    return struct.pack("<BBHII", kind, stream, zero, command, length)


BREACHES = {
    "a kind that there is not": header(kind=99),
    "kind zero": header(kind=0),
    "a stream that there is not": header(stream=3),
    "bytes that must be zero": header(zero=1),
    "a command beyond all numbers": header(command=COMMAND_MAX + 1),
    "a payload beyond the limit": header(length=PAYLOAD_BYTES_MAX + 1),
    "a payload of four gigabytes": header(length=0xFFFFFFFF),
}


@pytest.mark.parametrize("data", BREACHES.values(), ids=BREACHES)
def test_what_is_no_frame_is_the_end(data: bytes) -> None:
    """A header outside the rules is refused before a byte of its payload is waited for."""
    reader = FrameReader()
    with pytest.raises(FrameError):
        reader.feed(data)


@given(frames=st.lists(FRAMES, max_size=6), cuts=st.lists(st.integers(1, 50), max_size=40))
def test_frames_survive_any_cutting(frames: list[Frame], cuts: list[int]) -> None:
    """However the bytes are cut on the way, the same frames come out in the same order."""
    data = b"".join(map(pack, frames))
    reader, found = FrameReader(), []
    for cut in cuts:
        found += reader.feed(data[:cut])
        data = data[cut:]
    found += reader.feed(data)
    assert found == frames


@given(data=st.binary(max_size=400))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    """Whatever comes, the reader returns frames or refuses, and keeps less than one frame."""
    reader = FrameReader()
    try:
        for start in range(0, len(data), 7):
            reader.feed(data[start : start + 7])
    except FrameError:
        return
    assert len(reader.rest) < len(header()) + PAYLOAD_BYTES_MAX


@pytest.mark.parametrize("size", [0, 1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 3 * PAYLOAD_BYTES_MAX])
def test_large_data_goes_in_parts(size: int) -> None:
    """Data of any size arrives whole, in frames of at most the largest payload."""
    frames = FrameReader().feed(in_parts(Kind.PLAN, 0, bytes(size)))
    assert all(0 < len(frame.payload) <= PAYLOAD_BYTES_MAX for frame in frames)
    assert b"".join(frame.payload for frame in frames) == bytes(size)
