"""What a program needs of each device, from the compiler, without running it; found once and kept."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from marble import strict_json
from marble.parallel.chips import chip
from marble.parallel.hlo import Module
from marble.storage import replace_text, store_errors

logger = logging.getLogger(__name__)

READ = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
"""Variables that change what is compiled."""
VERSION = 1
"""Of what is kept; to be raised when figures are found otherwise."""


class Figures(NamedTuple):
    """Of one run of a program, on one device. Memory is in bytes; all is None where it does not compile."""

    arguments: int | None = None
    """As they lie in memory, which may be padded."""
    outputs: int | None = None
    """Those that don't take the place of an argument."""
    temporaries: int | None = None
    code: int | None = None
    flops: float | None = None
    """Floating-point operations; None where the compiler does not say."""
    collectives: dict[str, int] | None = None
    """Bytes by the kind of collective: see ``marble.parallel.hlo``."""
    fault: str | None = None
    """What the compiler says of a program that is too large for the device."""

    @property
    def memory(self) -> int | None:
        """All of it at the peak."""
        return None if self.fault else self.arguments + self.outputs + self.temporaries + self.code


def figures_of(lowered: jax.stages.Lowered, devices: Sequence[jax.Device], cache: str | None = None) -> Figures:
    """Compiles a program for these devices, or finds what was found before in the folder ``cache``.

    jax's own cache of compiled programs can't read back those for devices that are not there.
    """
    path = None if cache is None else epath.Path(cache) / "plan" / f"{_digest(lowered, devices)}.json"
    if path is not None and path.exists():
        return Figures(**json.loads(path.read_text()))
    figures = _compiled(lowered)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, strict_json.dumps(figures._asdict()))
        except (OSError, *store_errors()) as error:
            logger.warning("what was found is not kept in %s (%s)", path.parent, error)
    return figures


def device_memory(devices: Sequence[jax.Device]) -> float | None:
    """The bytes that each device has; CPU devices share the machine's."""
    found = chip(devices[0].device_kind)
    if found is not None:
        return found.memory
    if devices[0].platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(devices)
    return None


def shard_bytes(tree: Any) -> int:
    """The bytes of arrays, or of shapes with shardings, that one device has."""
    parts = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree))
    return sum(jax.ShapeDtypeStruct(*part).size * part[1].itemsize for part in parts)


def _compiled(lowered: jax.stages.Lowered) -> Figures:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise
        return Figures(fault=reason.partition("RESOURCE_EXHAUSTED: ")[2])
    memory, module = compiled.memory_analysis(), Module(compiled.as_text())
    flops = (compiled.cost_analysis() or {}).get("flops")
    return Figures(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=flops * module.network_repeats() if flops and flops > 0 else None,
        collectives=module.collective_bytes(),
    )


def _digest(lowered: jax.stages.Lowered, devices: Sequence[jax.Device]) -> str:
    """Names a program by its text and by all that changes what it is compiled to."""
    first = devices[0]
    where = [(d.id, d.process_index, getattr(d, "coords", None)) for d in devices]
    what = [VERSION, jax.__version__, first.device_kind, first.client.platform_version, where]
    words = [*what, *map(os.environ.get, READ), lowered.as_text()]
    return hashlib.sha256(repr(words).encode()).hexdigest()
