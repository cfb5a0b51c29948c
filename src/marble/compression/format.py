"""The file: a header, a section a transition, the pixels' section.

    header     magic, version, length, then the fields of ``Header``, then its CRC-32
    sections   each behind its CRC-16, so that what is there of a cut file can be trusted

Numbers are variable-length: seven bits a byte, the lowest first. The length of every section follows from the header.
"""

import binascii
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marble.compression.allocation import Allocation
from marble.compression.chain import packed_size
from marble.compression.transitions import BUCKETS
from marble.errors import InputError

MAGIC, VERSION = b"MRBL", 1
HASH_BYTES = 8
CRC_BYTES = 4
"""Of the header, and of the pixels."""
MOST_STEPS, MOST_COUNT = 255, 1 << 40


class Header(NamedTuple):
    """What a decoder needs besides the model, and what tells whether it has the right one."""

    shape: tuple[int, int, int]
    levels: int
    count: int
    seed: int
    allocation: Allocation
    model_hash: bytes
    """Of the parameters."""
    program_hash: bytes
    """Of the compiled network, of what compiled and ran it, and of what it said of the first noise."""
    pixels_crc: int
    """CRC-32 of the pixels."""
    pixels_size: int
    """Bytes of the last section."""

    @property
    def section_sizes(self) -> list[int]:
        """[K+1], without the CRCs."""
        plan = zip(self.allocation.bits, self.allocation.chunks, strict=True)
        return [*(packed_size(self.count * chunks, bits) for bits, chunks in plan), self.pixels_size]


def write(header: Header, sections: Sequence[bytes]) -> bytes:
    """The file."""
    fields = _pack_header(header)
    start = MAGIC + bytes([VERSION]) + _varint(len(fields)) + fields
    body = b"".join(_crc16(section) + section for section in sections)
    return start + zlib.crc32(start).to_bytes(CRC_BYTES, "big") + body


def read(data: bytes, *, prefix: bool = False) -> tuple[Header, list[bytes]]:
    """The header and the sections; with prefix, those that a cut file still has.

    InputError where it is no file of marble, of another version, damaged, or cut: without prefix anywhere, with it in
    the header.
    """
    header, start = _read_header(data)
    whole = start + sum(size + 2 for size in header.section_sizes)
    if len(data) > whole or (len(data) < whole and not prefix):
        remedy = "it was cut; --prefix decodes what is there" if len(data) < whole else "something follows its end"
        raise InputError(f"the compressed file has {len(data)} of {whole} bytes: {remedy}")
    sections = []
    for number, size in enumerate(header.section_sizes):
        end = start + 2 + size
        if end > len(data):
            break
        section = data[start + 2 : end]
        if _crc16(section) != data[start : start + 2]:
            raise InputError(f"the compressed file is damaged in section {number}: its checksum is wrong")
        sections.append(section)
        start = end
    return header, sections


def header_size(data: bytes) -> int:
    """The bytes of the header of a file; InputError where they are not all there."""
    return _read_header(data)[1]


def _read_header(data: bytes) -> tuple[Header, int]:
    """The header, and where the sections start."""
    if not data:
        raise InputError("the compressed file is empty: it was cut, or never written")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise InputError("this is not a file of marble compress: its first bytes are others")
    reader = _Reader(data, len(MAGIC))
    version = reader.bytes(1)[0]
    if version != VERSION:
        raise InputError(f"the compressed file is of version {version}, this marble reads version {VERSION}")
    length = reader.number()
    size = reader.at + length + CRC_BYTES
    if len(data) < size:
        raise InputError(f"{_cut(data)} of {size} bytes: nothing decodes")
    fields = _Reader(reader.bytes(length), 0)
    if reader.crc() != zlib.crc32(data[: reader.at - CRC_BYTES]):
        raise InputError("the compressed file is damaged in its header: its checksum is wrong")
    return _unpack_header(fields), reader.at


def _pack_header(header: Header) -> bytes:
    plan = header.allocation
    numbers = [*header.shape, header.levels, header.count, header.seed, header.pixels_size, len(plan.bits)]
    numbers += [*plan.timesteps, *plan.bits, *plan.chunks]
    codes = np.unpackbits(plan.codes.reshape(-1, 1), axis=1)[:, 2:]  # 6 bits each
    crc = header.pixels_crc.to_bytes(CRC_BYTES, "big")
    hashes = header.model_hash + header.program_hash
    return b"".join(map(_varint, numbers)) + np.packbits(codes).tobytes() + hashes + crc


def _unpack_header(reader: "_Reader") -> Header:
    shape = tuple(reader.number() for _ in range(3))
    levels, count, seed, pixels_size, num_steps = (reader.number() for _ in range(5))
    if not 1 <= num_steps <= MOST_STEPS or not 1 <= count <= MOST_COUNT:
        raise InputError(f"the compressed file is damaged: {num_steps} transitions, {count} images")
    timesteps = tuple(reader.number() for _ in range(num_steps + 1))
    bits, chunks = (tuple(reader.number() for _ in range(num_steps)) for _ in range(2))
    size = (num_steps + 1) * BUCKETS
    packed = np.frombuffer(reader.bytes(-(-size * 6 // 8)), np.uint8)
    digits = np.pad(np.unpackbits(packed, count=size * 6).reshape(-1, 6), ((0, 0), (2, 0)))
    codes = np.packbits(digits, axis=1).reshape(num_steps + 1, BUCKETS)
    model_hash, program_hash = reader.bytes(HASH_BYTES), reader.bytes(HASH_BYTES)
    allocation = Allocation(timesteps, bits, chunks, codes)
    return Header(shape, levels, count, seed, allocation, model_hash, program_hash, reader.crc(), pixels_size)


class _Reader:
    """Reads one field after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def bytes(self, size: int) -> bytes:
        part = self._data[self.at : self.at + size]
        if len(part) < size:
            raise InputError(f"{_cut(self._data)}: nothing decodes")
        self.at += size
        return part

    def number(self) -> int:
        value, shift, byte = 0, 0, 0x80
        while byte & 0x80:
            byte = self.bytes(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
        return value

    def crc(self) -> int:
        return int.from_bytes(self.bytes(CRC_BYTES), "big")


def _cut(data: bytes) -> str:
    return f"the compressed file was cut: its {len(data)} bytes are less than its header"


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the highest bit set."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _crc16(section: bytes) -> bytes:
    return binascii.crc_hqx(section, 0xFFFF).to_bytes(2, "big")
