"""A machine that reads a pickle, which is a program, and runs nothing.

It knows the opcodes of ``OPCODES``, and the names of ``pickle_names``. Any other opcode or name is refused. Python's
own Unpickler with find_class overridden would not do: nine bytes (a memo entry of a high number) make it take 4 GB, and
tuples nested a million deep, as a key, end the process.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from marble.convert.pickle_names import (
    BUILDERS,
    INERT,
    KNOWN,
    NOTHING,
    STORAGES,
    UNTYPED,
    Global,
    Storage,
    is_name,
)
from marble.convert.stored import Cursor, is_count, shown
from marble.errors import InputError

MOST_PICKLED = 2**26
"""Bytes of one pickle, without the storages: 2^20 is much."""
MOST_OPCODES = 4_000_000
"""Of one pickle: some 40 make a tensor."""


class Machine:
    """One pickle, from a cursor: its values are dict, list, tuple, str, bytes, numbers, and the classes above."""

    def __init__(self, at: Cursor) -> None:
        self._at = at
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        """All that the pickle named, also those of no tensor."""

    def run(self) -> Any:
        """The value; InputError for what is no such pickle, and for a name that is not known."""
        end = self._at.end
        self._at.end = min(end, self._at.at + MOST_PICKLED)
        try:
            for _ in range(MOST_OPCODES):
                code = self._at.take(1)
                if code == b".":
                    return self._stack.pop()
                if code not in OPCODES:
                    raise ValueError(f"the opcode {code!r} is none that weights need")
                OPCODES[code](self)
        except (ValueError, TypeError, IndexError, KeyError, struct.error) as error:
            if isinstance(error, InputError):
                raise
            raise self._at.stored.damaged(f"its pickle fails before byte {self._at.at}: {_reason(error)}") from error
        finally:
            self._at.end = end
        raise InputError(f"{self._at.stored.path} has a pickle that is too long for weights; nothing was run: leave it")

    def number(self, length: int) -> int:
        """The next bytes as an unsigned number."""
        return self._at.number(length, "little")

    def text(self, length: int) -> None:
        """Puts a text on the stack; ValueError where it is not UTF-8."""
        self.push(self._at.take(length).decode())

    def old_text(self, length: int) -> None:
        """The same of Python 2, whose texts are bytes."""
        self.push(self._at.take(length).decode("latin-1"))

    def data(self, length: int) -> None:
        """Passes over bytes, which are no weights."""
        self._at.skip(length)
        self.push(NOTHING)

    def integer(self, length: int) -> None:
        """Puts a signed number on the stack; a long one would take long to show."""
        if length > 16:
            raise ValueError(f"a number of {length} bytes")
        self.push(int.from_bytes(self._at.take(length), "little", signed=True))

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self._stack.append(value)

    def frame(self) -> None:
        """Says how many bytes follow, which must be there."""
        length = self.number(8)
        if length > self._at.end - self._at.at:
            raise ValueError(f"a frame of {length} bytes")

    def mark(self) -> None:
        """Begins the values that a later opcode takes all of."""
        self._marked.append(self._stack)
        self._stack = []

    def items(self) -> list[Any]:
        """What stands after the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def drop(self) -> None:
        """Takes away the last value or, where none is after it, the last mark."""
        if self._stack:
            self._stack.pop()
        else:
            self.items()

    def taken(self, count: int) -> None:
        """Makes a tuple of the last values."""
        if count > len(self._stack):
            raise IndexError
        items = self._stack[-count:]
        del self._stack[-count:]
        self.push(tuple(items))

    def dictionary(self) -> None:
        """Makes a dict of what stands after the mark, a key and a value in turn."""
        items = self.items()
        self.push({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        """Sets keys and values of the dict that is last on the stack, those whose key can be a name."""
        target = self._stack[-1]
        if type(target) is dict and len(items) % 2 == 0:
            target.update({k: v for k, v in zip(items[::2], items[1::2], strict=True) if is_name(k)})
        elif target is not NOTHING:
            raise ValueError(f"items are set in {shown(target)}")

    def append(self, items: list[Any]) -> None:
        """Adds values to the list that is last on the stack."""
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif target is not NOTHING:
            raise ValueError(f"{shown(target)} is appended to")

    def put(self, index: int) -> None:
        """Remembers the last value."""
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        """Puts a remembered value on the stack."""
        self.push(self._memo[index])

    def global_line(self) -> None:
        """Puts a name on the stack that stands in two lines, module and name."""
        self.find(self._line(), self._line())

    def _line(self) -> str:
        read = bytearray()
        while (byte := self._at.take(1)) != b"\n":
            read += byte
            if len(read) > 200:
                raise ValueError("a name of more than 200 bytes")
        return read.decode()

    def global_stack(self) -> None:
        """The same of a module and a name that are on the stack."""
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name is no text")
        self.find(module, name)

    def find(self, module: str, name: str) -> None:
        """Puts a name on the stack. Nothing is imported, whatever it is."""
        if (module, name) in INERT:
            self.push(NOTHING)
        elif (module, name) in KNOWN:
            self.push(Global(module, name))
        else:
            raise InputError(
                f"{self._at.stored.path} asks for {shown(f'{module}.{name}')[1:-1]}, which weights don't need; nothing "
                "was run: if you trust the file, save its weights as .safetensors where it was made"
            )

    def reduce(self) -> None:
        """Calls one of BUILDERS; ValueError for anything else that is called."""
        arguments, called = self._stack.pop(), self._stack.pop()
        if called is NOTHING:
            self.push(NOTHING)
        elif type(called) is Global and called in BUILDERS and type(arguments) is tuple and len(arguments) <= 16:
            self.push(BUILDERS[called](*arguments))
        else:
            raise ValueError(f"{shown(called)} is called")

    def new(self, count: int) -> None:
        """Makes an object of a class, which must be one of INERT."""
        if self._stack[-count] is not NOTHING:
            raise ValueError(f"{shown(self._stack[-count])} is made")
        del self._stack[-count:]
        self.push(NOTHING)

    def build(self) -> None:
        """Gives an object a state: what keeps none stays as it is (an OrderedDict has one beside its items)."""
        self._stack.pop()
        if self._stack[-1] is not NOTHING and type(self._stack[-1]) is not dict:
            raise ValueError(f"{shown(self._stack[-1])} is given a state")

    def persistent(self) -> None:
        """The storage that a tuple tells of: ("storage", its type, its key, the device, its length)."""
        facts = self._stack.pop()
        if type(facts) is not tuple or not 5 <= len(facts) <= 6 or facts[0] != "storage":
            raise ValueError(f"a storage is {shown(facts)}")
        _, kind, key, _, count, *part = facts
        if type(kind) is not Global or (kind not in STORAGES and kind not in UNTYPED):
            raise ValueError(f"a storage is of the type {shown(kind)}")
        if type(key) is not str or not is_count(count) or (len(part) == 1 and part[0] is not None):
            raise ValueError(f"a storage is {shown(facts)}, or a part of another")
        storage = Storage(key, STORAGES.get(kind), count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage {shown(key)} is there as two")
        self.push(storage)


OPCODES: Mapping[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.number(1),
    b"\x95": Machine.frame,
    b"(": Machine.mark,
    b"0": Machine.drop,
    b"1": lambda m: m.items(),
    b"2": lambda m: m.push(m._stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.integer(4),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": lambda m: m.integer(m.number(1)),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m._at.take(8))[0]),
    b"U": lambda m: m.old_text(m.number(1)),
    b"T": lambda m: m.old_text(m.number(4)),
    b"\x8c": lambda m: m.text(m.number(1)),
    b"X": lambda m: m.text(m.number(4)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"C": lambda m: m.data(m.number(1)),
    b"B": lambda m: m.data(m.number(4)),
    b"\x8e": lambda m: m.data(m.number(8)),
    b"\x96": lambda m: m.data(m.number(8)),
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(NOTHING),
    b"t": lambda m: m.push(tuple(m.items())),
    b"\x85": lambda m: m.taken(1),
    b"\x86": lambda m: m.taken(2),
    b"\x87": lambda m: m.taken(3),
    b"l": lambda m: m.push(m.items()),
    b"d": Machine.dictionary,
    b"a": lambda m: m.append([m._stack.pop()]),
    b"e": lambda m: m.append(m.items()),
    b"s": lambda m: m.set_items([*reversed((m._stack.pop(), m._stack.pop()))]),
    b"u": lambda m: m.set_items(m.items()),
    b"\x90": lambda m: m.append(m.items()),
    b"\x91": lambda m: (m.items(), m.push(NOTHING)),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m._memo)),
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"c": Machine.global_line,
    b"\x93": Machine.global_stack,
    b"R": Machine.reduce,
    b"\x81": lambda m: m.new(2),
    b"\x92": lambda m: m.new(3),
    b"b": Machine.build,
    b"Q": Machine.persistent,
}
"""All that a pickle can do here. No extension codes (82-84), no INST or OBJ, no text forms of numbers."""


def _reason(error: Exception) -> str:
    """The words of our own errors; a class for those of Python, whose words may hold what the file says."""
    if isinstance(error, IndexError | KeyError):
        return "it takes what is not there"
    return "its text is not UTF-8" if isinstance(error, UnicodeDecodeError) else shown(str(error))[1:-1]
