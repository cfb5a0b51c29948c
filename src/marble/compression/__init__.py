"""Progressive lossless compression: a chain of coded transitions, then the pixels. Start with chain.py."""

from marble.compression.allocation import Allocation, allocate
from marble.compression.chain import Chain, Encoded, bound_bits, decode, encode
from marble.compression.format import Header, read, write

__all__ = ["Allocation", "Chain", "Encoded", "Header", "allocate", "bound_bits", "decode", "encode", "read", "write"]
