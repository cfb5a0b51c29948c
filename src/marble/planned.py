"""What a plan says: the programs, what each takes of a device, and what to change where one is too large."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from marble.parallel.chips import peak_flops
from marble.parallel.program import Figures, device_memory


class Part(NamedTuple):
    """One program on its devices."""

    name: str
    num_images: int
    """Of a call, on all devices."""
    num_steps: int
    """How often the network is gone through until there is a result: a train step's once, a sampler's at each step."""
    parameters: int
    """The bytes of them that one device has, of the network that is trained or samples."""
    frozen: int
    """The same of the parts beside it that no step changes, such as a text encoder."""
    state: int
    """The same of all that is kept from call to call: both among it."""
    figures: Figures
    once_flops: float = 0.0
    """Of ``figures.flops``, those that are done once however many steps there are."""


class Plan(NamedTuple):
    """What the programs of a config need."""

    devices: tuple[jax.Device, ...]
    num_parameters: int
    """Of the network that is trained, or samples."""
    num_frozen: int
    """Of the parts that no step changes."""
    parts: tuple[Part, ...]
    remedies: tuple[str, ...] = ()
    """What to change, where something does not fit."""

    @property
    def memory(self) -> float | None:
        """The bytes that each device has; None where that is not known."""
        return device_memory(self.devices)

    def fits(self, part: Part) -> bool:
        """Whether a device has room for this program; yes where its memory is not known and the compiler is content."""
        used = part.figures.memory
        return used is not None and (self.memory is None or used <= self.memory)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it: bytes of each device, operations of all."""
        first, peak = self.devices[0], peak_flops(self.devices[0].device_kind)
        return {
            "devices": {"kind": first.device_kind, "count": len(self.devices), "memory": self.memory, "flops": peak},
            "parameters": self.num_parameters,
            "frozen_parameters": self.num_frozen,
            "fits": all(map(self.fits, self.parts)),
            "remedies": list(self.remedies),
            **{part.name: self._part(part, peak) for part in self.parts},
        }

    def _part(self, part: Part, peak: float | None) -> dict[str, Any]:
        flops, count = part.figures.flops, len(self.devices)
        step = None if flops is None else flops - part.once_flops
        return {
            "fits": self.fits(part),
            "fault": part.figures.fault,
            "images": part.num_images,
            "steps": part.num_steps,
            "memory": {
                "parameters": part.parameters,
                "frozen": part.frozen,
                "state": part.state,
                "arguments": part.figures.arguments,
                "outputs": part.figures.outputs,
                "temporaries": part.figures.temporaries,
                "code": part.figures.code,
                "total": part.figures.memory,
            },
            "flops_per_image": step and step * count / part.num_images,
            "flops_per_step": step and step * count,
            "flops_once": part.once_flops * count,
            "collective_bytes": part.figures.collectives,
            "seconds_at_peak": peak and step and (step * part.num_steps + part.once_flops) / peak,
        }


def remedies(made: Plan, config: Mapping[str, Any], *, dtype: str | None, of_workdir: bool) -> Iterator[str]:
    """What makes the programs that don't fit smaller, the cheapest first; dtype is what the sampler was asked for in.

    With a workdir the sampler's batch and precision are those of its user, else the config's.
    """
    too_large = [part.name for part in made.parts if not made.fits(part)]
    count, training, model = len(made.devices), config["training"], config["model"]
    if "train" in too_large:
        share = training["batch_size"] // count // training["accumulate"]
        if share > 1:
            factor = next(k for k in range(2, share + 1) if share % k == 0)
            yield f"--config.training.accumulate={training['accumulate'] * factor}"
        if model.get("remat") is False:
            yield "--config.model.remat=True"
    if "sample" in too_large and config["sampling"]["batch_size"] > count:
        half = max(count, config["sampling"]["batch_size"] // 2)
        yield f"--batch_size={half}" if of_workdir else f"--config.sampling.batch_size={half}"
    is_config_free = "train" in too_large or (bool(too_large) and not of_workdir)
    if is_config_free and model["dtype"] == "float32":
        yield "--config.model.dtype=bfloat16"
    elif too_large and "bfloat16" not in (dtype, model["dtype"]):
        yield "--dtype=bfloat16"
    if is_config_free and count > 1 and config["parallel"]["sharding"] == "replicated":
        yield "--config.parallel.sharding=fsdp"
    if "train" in too_large:
        yield f"more devices, or a smaller {'--config.training.batch_size' if of_workdir else '--batch_size'}"
    elif of_workdir and too_large:
        yield "devices with more memory"
