"""marble plan: what a config needs of a TPU, on a machine that has none: memory, arithmetic, communication.

  marble plan --config configs/cifar10.py[:variant] --topology v5e:2x4 [--config.training.accumulate=2]
  marble plan --workdir sd15 --topology v5e:2x4 [--batch_size 8] [--dtype bfloat16]

Compiles the train step and the sampler as they would run on that slice, and prints what each of its devices has to
hold against its memory, the floating-point operations, the bytes of collectives, and the time at the chip's peak. The
data set need not be there. A full-size config takes minutes to compile; the figures are kept, and asked for again they
come in seconds. Without --topology it plans for the devices of this machine.

A workdir is that of a run, whose config it has, or a published checkpoint, as diffusers has it or converted, of which
the sampler alone is planned. No weights are read.

Exit status 0: it fits. 1: it does not, or what failed is said. 2: wrong usage.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from absl import flags

from marble import strict_json
from marble.cli.flags import overridden, parse, refuse, require
from marble.cli.train import configured
from marble.errors import InputError

logger = logging.getLogger(__name__)

COLUMNS = {"train": "train step", "sample": "sampler"}


def define(values: flags.FlagValues) -> None:
    """The flags of marble plan."""
    text = dict(flag_values=values)
    flags.DEFINE_string(
        "config",
        None,
        "Config file, or the name of a shipped config, with an optional :variant. "
        "--config.section.key=value changes a key.",
        **text,
    )
    flags.DEFINE_string("workdir", None, "In place of a config: folder of a run, or of a published checkpoint.", **text)
    flags.DEFINE_string("topology", None, "A TPU slice, such as v5e:2x4 (default: the devices here).", **text)
    flags.DEFINE_integer(
        "batch_size",
        None,
        "With --config: short for --config.training.batch_size. With --workdir: images in one call of the sampler "
        "(default: the config's; at least one a device).",
        **text,
    )
    flags.DEFINE_string(
        "dtype", None, "With --workdir: float32 or bfloat16, what the sampler computes in and is held in.", **text
    )
    flags.DEFINE_list("image_shape", None, "HEIGHT,WIDTH,CHANNELS, where the data set does not say.", **text)
    flags.DEFINE_bool("sampler", True, "Compile the sampler too; --nosampler or --no_sampler leaves it out.", **text)
    flags.DEFINE_bool("json", False, "Print one JSON object instead of the table.", **text)


def main(argv: list[str]) -> int:
    """Plans, and returns the exit status."""
    changes = [word for word in argv if word.startswith("--config.")]
    rest = ["--nosampler" if word == "--no_sampler" else word for word in argv if word not in changes]
    values = parse("plan", __doc__, rest, define)
    check(values)
    from marble.parallel.devices import compilation_cache, use_compilation_cache

    devices = devices_of(values.topology)
    plan_it = of_config if values.workdir is None else of_workdir
    make = plan_it(values, changes)
    if values.topology is None:
        use_compilation_cache()
    made = make(devices, sampler=values.sampler, cache=compilation_cache())
    of_what = "config" if values.workdir is None else "workdir"
    found = {of_what: values[of_what].value, "topology": values.topology, **made.to_dict()}
    print(strict_json.dumps(found, indent=2) if values.json else "\n".join(table(values[of_what].value, found)))
    return 0 if found["fits"] else 1


def check(values: flags.FlagValues) -> None:
    """InputError unless there is one thing to plan, and the flags are of it."""
    if values.workdir is None:
        require(values, "config")
        refuse(values, ["dtype"], "is for --workdir; with --config it is --config.model.dtype")
    else:
        refuse(values, ["config"], f"is given, and --workdir {values.workdir}, which has a config of its own")
        refuse(values, ["image_shape"], f"is given, but the images of {values.workdir} are known")


def of_config(values: flags.FlagValues, changes: list[str]) -> Callable[..., Any]:
    """What plans the config of that name, changed."""
    if values.batch_size is not None:
        changes = [*changes, f"--config.training.batch_size={values.batch_size}"]
    shape = whole_numbers(values.image_shape)
    config = configured(values.config, changes)
    from marble.plan import plan

    return partial(plan, config, image_shape=shape)


def of_workdir(values: flags.FlagValues, changes: list[str]) -> Callable[..., Any]:
    """What plans a workdir, its config changed."""
    from marble.plan import plan_workdir

    change = partial(overridden, words=changes)
    return partial(plan_workdir, values.workdir, change=change, batch_size=values.batch_size, dtype=values.dtype)


def devices_of(topology: str | None) -> tuple:
    """The devices of a slice, or of this machine."""
    import jax

    from marble.parallel.topology import tpu_devices

    if topology is None:
        return tuple(jax.devices())
    # jax can write programs for devices that are not there to its cache, but not read them.
    jax.config.update("jax_enable_compilation_cache", False)
    return tpu_devices(topology)


def whole_numbers(words: list[str] | None) -> tuple[int, int, int] | None:
    """The numbers of --image_shape; InputError for what is no shape."""
    if words is None:
        return None
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"--image_shape {','.join(words)} must be HEIGHT,WIDTH,CHANNELS, such as 32,32,3")
    return tuple(map(int, words))


def table(name: str, found: dict) -> Iterator[str]:
    """The lines that are printed."""
    devices, parts = found["devices"], {name: found[name] for name in COLUMNS if name in found}
    where = f"{devices['count']} x {devices['kind']}"
    frozen = f", and {found['frozen_parameters']:,} frozen ones" if found["frozen_parameters"] else ""
    yield f"{name} on {found['topology'] or 'this machine'} ({where}): {found['parameters']:,} parameters{frozen}"
    yield ""
    for label, cells in rows(devices, parts):
        yield (f"{label:34}" + "".join(f"{cell:>16}" for cell in cells)).rstrip()
    yield ""
    for name, part in parts.items():
        if part["fault"]:
            yield f"the {COLUMNS[name]} does not compile: {part['fault']}"
    if found["fits"]:
        yield "fits"
    else:
        yield "does not fit; try " + ", or ".join(found["remedies"])


def rows(devices: dict, parts: dict[str, dict]) -> Iterator[tuple[str, list[str]]]:
    """Each line of the table: its label, and a cell for each program."""
    all_of = list(parts.values())
    yield "", [COLUMNS[name] for name in parts]
    yield "images a call", [f"{part['images']:,}" for part in all_of]
    yield "on each device", []
    for label, key in {
        "parameters": "parameters",
        **({"frozen ones beside them": "frozen"} if any(part["memory"]["frozen"] for part in all_of) else {}),
        "all state, with them": "state",
        "arguments, as laid out": "arguments",
        "outputs beside them": "outputs",
        "temporaries": "temporaries",
        "program": "code",
        "total": "total",
    }.items():
        yield f"  {label}", [size(part["memory"][key]) for part in all_of]
    memory = devices["memory"]
    yield f"  of {size(memory)}", [share(part["memory"]["total"], memory) for part in all_of]
    for kind in sorted({kind for part in all_of for kind in part["collective_bytes"] or ()}):
        yield f"  {kind}", [size((part["collective_bytes"] or {}).get(kind, 0)) for part in all_of]
    yield "floating-point operations", []
    yield "  a step, an image", [count(part["flops_per_image"]) for part in all_of]
    yield "  a step, all images", [count(part["flops_per_step"]) for part in all_of]
    if any(part["flops_once"] for part in all_of):
        yield "  once, all images", [count(part["flops_once"]) for part in all_of]
    yield "steps", [f"{part['steps']:,}" for part in all_of]
    yield "time of them at peak", [duration(part["seconds_at_peak"]) for part in all_of]


def size(number: float | None) -> str:
    """Bytes, as MiB or GiB."""
    if number is None:
        return "unknown"
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def share(used: float | None, memory: float | None) -> str:
    """Of the memory."""
    return "unknown" if used is None or memory is None else f"{used / memory:.1%}"


def count(number: float | None) -> str:
    """Four digits, with a decimal prefix."""
    if number is None:
        return "unknown"
    unit, name = next(((u, n) for u, n in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if number >= u), (1.0, ""))
    return f"{number / unit:.4g} {name}"


def duration(seconds: float | None) -> str:
    """In milliseconds or seconds."""
    if seconds is None:
        return "unknown"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
