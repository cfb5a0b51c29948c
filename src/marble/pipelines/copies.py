"""Copies of pipelines: compiled programs and devices can't be copied, so a copy is made again of the same parts."""

from typing import Any, NoReturn, Self

from marble.errors import InputError
from marble.parallel import fetch


class Copyable:
    """A class of keywords alone, ``params`` among them, whose instances ``copy.deepcopy`` makes again.

    The copy has parameters of its own and compiles its own programs. Other processes load what they need.
    """

    def __new__(cls, **parts: Any) -> Self:
        made = super().__new__(cls)
        made._parts = {name: part for name, part in parts.items() if name != "params"}
        return made

    def with_parts(self, **parts: Any) -> Self:
        """A copy with other parts, by their keywords."""
        return type(self)(**{**self._parts, "params": fetch(self.params), **parts})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.with_parts()

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __reduce_ex__(self, protocol: int) -> NoReturn:
        raise InputError(
            f"a {type(self).__name__} can't be pickled, for its programs are compiled for this process's devices: "
            "call marble.load(workdir) in the other process, or pass the arrays that it makes"
        )
