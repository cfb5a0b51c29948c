"""The file: what is written is read, and nothing else."""

import gaussian
import numpy as np
import pytest

from marble.compression import Header, format, read, write
from marble.errors import InputError

SECTIONS = [b"a" * 6, b"b" * 9, b"c" * 12, b"d" * 20]  # 6 images in 7 bits, 2 times 6, 3 times 5; the pixels
HEADER = Header(
    shape=(8, 300, 1),
    levels=256,
    count=6,
    seed=2**32 - 1,
    allocation=gaussian.ALLOCATION,
    model_hash=b"12345678",
    program_hash=b"abcdefgh",
    pixels_crc=2**32 - 5,
    pixels_size=20,
)
DATA = write(HEADER, SECTIONS)


def test_what_is_written_is_read():
    header, sections = read(DATA)
    np.testing.assert_array_equal(header.allocation.codes, HEADER.allocation.codes)
    assert header.allocation[:3] == HEADER.allocation[:3]
    assert header._replace(allocation=None) == HEADER._replace(allocation=None)
    assert sections == SECTIONS


def test_any_changed_byte_is_found():
    for place in range(len(DATA)):
        for change in (1, 0x80):
            damaged = bytearray(DATA)
            damaged[place] ^= change
            with pytest.raises(InputError):
                read(bytes(damaged))


def test_a_cut_file_is_refused_unless_its_prefix_is_asked_for():
    counts = []
    for size in range(len(DATA)):
        with pytest.raises(InputError):
            read(DATA[:size])
        if size < format.header_size(DATA):
            with pytest.raises(InputError):
                read(DATA[:size], prefix=True)
        else:
            counts.append(len(read(DATA[:size], prefix=True)[1]))
    assert counts[0] == 0 and counts[-1] == 3 and (np.diff(counts) >= 0).all()
    assert len(read(DATA, prefix=True)[1]) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: it was cut"),
        (DATA[:5], "was cut: its 5 bytes are less than its header: nothing"),
        (b"PK\x03\x04 something else", "not a file of marble compress"),
        (DATA[:30], f"was cut: its 30 bytes are less than its header of {format.header_size(DATA)} bytes: nothing"),
        (DATA[:-1], "it was cut; --prefix"),
        (DATA + b"x", "something follows its end"),
        (DATA[:4] + b"\x02" + DATA[5:], "of version 2"),
        (DATA[:-1] + b"x", "damaged in section 3"),
    ],
)
def test_the_refusal_says_what_is_wrong(data, message):
    with pytest.raises(InputError, match=message) as refused:
        read(data)
    assert "\n" not in str(refused.value)
