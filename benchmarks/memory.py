"""How much memory a call takes: what an accelerator's allocator says, else how far the process grows."""

import os
import sys
from pathlib import Path

SELF = Path("/proc/self")


class PeakMemory:
    """A probe of ``in_turns``: the most bytes of any call of each contender, in ``found``.

    Of an accelerator they are the most that the library had in use at once: of jax in this process so far, of PyTorch
    in that call. On a CPU they are what the process's resident memory rose by during the call, parameters and all
    else that lay there before left out; what an allocator had kept for itself is not seen. Elsewhere there are none.
    """

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self._at_rest = 0

    def begin(self, name: str) -> None:
        """Just before a call."""
        if device_peak(name) is not None:
            reset_torch()
        elif is_told():
            (SELF / "clear_refs").write_text("5")  # the peak is counted anew from what is there now
            self._at_rest = resident("VmRSS")

    def end(self, name: str) -> None:
        """Just after it."""
        peak = device_peak(name)
        if peak is None and is_told():
            peak = max(0, resident("VmHWM") - self._at_rest)
        if peak is not None:
            self.found[name] = max(peak, self.found.get(name, 0))


def is_told() -> bool:
    """Whether this system tells of a process's peak, and begins it anew."""
    return os.access(SELF / "clear_refs", os.W_OK)


def resident(key: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most (VmHWM)."""
    lines = (SELF / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def device_peak(name: str) -> int | None:
    """The most bytes of an accelerator that were in use, by marble or another's PyTorch; None where it does not say."""
    torch = sys.modules.get("torch")
    if name != "marble":
        return torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_available() else None
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def reset_torch() -> None:
    """Has PyTorch count anew."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def program_bytes(compiled: object) -> int | None:
    """What a compiled program needs of a device, its arguments included; None where the compiler does not say."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes
