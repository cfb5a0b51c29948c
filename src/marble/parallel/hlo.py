"""What a compiled program does between devices, and how often: read from its HLO text.

A collective's bytes are those of the arrays that go into it or come out of it on one device, whichever are more: of an
all-reduce the arrays that are summed, of an all-gather the gathered ones, of a reduce-scatter those before. What the
links carry follows from the algorithm; a ring's all-reduce, for one, sends each byte nearly twice.

What is in a loop counts as often as the loop runs, where the text tells: XLA's own trip count, or a counter that is
compared with a constant, as in jax's loops over arrays. A loop whose length is an argument counts once, and of a
conditional every branch counts.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
BITS = {"pred": 8, "token": 0, "opaque": 0}

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)[ {].*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
CALLEES = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
TRIP_COUNT = re.compile(r'known_trip_count"?[:=]\s*\{"n":"(\d+)"\}')
CONSTANT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
NETWORK = re.compile(r" (?:convolution|dot)\(|custom_call_target=\"[^\"]*(?:conv|gemm|matmul|dot)", re.IGNORECASE)
"""Instructions that networks spend their time in; libraries' are calls of a custom target."""


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    """What follows the operands."""


class Module:
    """A program's text, by computation."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, list[str]] = {}
        self._entry = name = None
        for line in text.splitlines():
            if line[:1].isspace():
                if name is not None:
                    self._lines[name].append(line)
            elif found := COMPUTATION.match(line):
                name = found[2]
                self._lines[name] = []
                self._entry = name if found[1] else self._entry
            else:
                name = None
        self._counts = self._run_counts()

    def collective_bytes(self) -> dict[str, int]:
        """The bytes of each kind of collective on one device, in one run of the program."""
        found: dict[str, int] = defaultdict(int)
        for name, lines in self._lines.items():
            types = None
            for line in lines:
                kind = collective_of(line)
                if kind is None or not self._counts[name]:
                    continue
                types = types or dict(_types(lines))
                instruction = parsed(line)
                before = sum(size_of(types.get(operand, "")) for operand in instruction.operands)
                after = size_of(instruction.type, without_scalars=instruction.opcode.endswith("-start"))
                if instruction.opcode.endswith("-start") and after > before:
                    after -= before  # what it starts holds the operands beside the results
                found[kind] += max(before, after) * self._counts[name]
        return dict(found)

    def network_repeats(self) -> int:
        """How often the loop runs that the network is in: XLA's cost analysis counts such a loop once."""
        holding = (self._counts[name] for name, lines in self._lines.items() if any(map(NETWORK.search, lines)))
        return max(holding, default=1) or 1

    def _run_counts(self) -> dict[str, int]:
        """How often each computation runs; in the text a caller stands after what it calls."""
        counts = {name: int(name == self._entry) for name in self._lines}
        for caller in reversed(self._lines):
            for line in self._lines[caller]:
                for callee in CALLEES.finditer(line):
                    for name in re.findall(r"[\w.\-]+", callee[1]):
                        if name in counts:
                            counts[name] += counts[caller] * self._trips(line)
        return counts

    def _trips(self, line: str) -> int:
        """How often what this line calls is run by it."""
        if " while(" not in line:
            return 1
        if known := TRIP_COUNT.search(line):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", line)
        lines = self._lines.get(condition[1], []) if condition else []
        constants = dict(found.groups() for found in map(CONSTANT.match, lines) if found)
        root = next((parsed(one) for one in lines if one.lstrip().startswith("ROOT ")), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return 1
        return int(constants.get(root.operands[1], 1))


def collective_of(line: str) -> str | None:
    """The kind of collective that a line is; that of its start, where it is started and waited for."""
    return next((kind for kind in COLLECTIVES if f" {kind}(" in line or f" {kind}-start(" in line), None)


def parsed(line: str) -> Instruction:
    """An instruction's parts; layouts, such as {1,0:T(8,128)}, have no spaces, tuples do."""
    found = INSTRUCTION.match(line)
    text = re.sub(r"/\*.*?\*/", "", line[found.end() :])
    end = _closing(text) if text.startswith("(") else text.index(" ")
    opcode, _, after = text[end:].strip().partition("(")
    close = _closing("(" + after) - 2
    operands = tuple(part.split()[-1].lstrip("%") for part in _split(after[:close]))
    return Instruction(found[2], text[:end], opcode, operands, after[close + 1 :])


def size_of(type_: str, *, without_scalars: bool = False) -> int:
    """The bytes of a type's arrays; without_scalars leaves out what is a number alone, such as a semaphore."""
    total = 0
    for name, shape in ARRAY.findall(type_):
        if without_scalars and not shape:
            continue
        bits = BITS.get(name) or int((re.search(r"\d+", name) or ["0"])[0])
        for length in filter(None, shape.split(",")):
            bits *= int(length)
        total += -(-bits // 8)
    return total


def _types(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if INSTRUCTION.match(line):
            instruction = parsed(line)
            yield instruction.name, instruction.type


def _closing(text: str) -> int:
    """The position after the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _split(operands: str) -> Iterator[str]:
    """The operands, which may have types with parentheses and commas of their own."""
    depth, start = 0, 0
    for i, character in enumerate(operands):
        depth += (character in "({[") - (character in ")}]")
        if character == "," and depth == 0:
            yield operands[start:i]
            start = i + 1
    if operands[start:].strip():
        yield operands[start:]
