"""The folder of an exported sampler: the program, its weights, its grids, what they are, and what runs them.

sampler.jax_export    jax.export's own file: StableHLO and its calling convention
weights.safetensors   the arrays that the program reads
grids.safetensors     the noise levels of every number of steps
sampler.json          what goes in and comes out, by name, in the program's order
sample.py             draws with all that, by jax and numpy alone
"""

import importlib.util
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

import marble
from marble import strict_json
from marble.conversion.writing import ROOM, new_folder
from marble.convert import safetensors_file
from marble.errors import InputError
from marble.export.program import PLATFORMS, Program, check_platforms, exported
from marble.export.told import told
from marble.parallel import compiler_options
from marble.pipelines import DiffusionPipeline

FORMAT = "marble sampler 1"
PROGRAM, WEIGHTS, GRIDS = "sampler.jax_export", "weights.safetensors", "grids.safetensors"
MOST_GRIDS = 1000
"""Numbers of steps from 1 up that have their levels in the folder, beside the default and all of training's."""


def export(
    pipe: Any,
    out: str | Path,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
    batch_size: int | None = None,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    eta: float | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float | None = None,
    classifier_scale: float | None = None,
    command: str = "",
) -> Path:
    """Writes the pipeline's sampler as a program without marble into a new folder, and returns it.

    The program has a fixed batch_size, size of images and sampler, those of the pipeline where none is given. Number
    of steps, eta and the numbers of guidance are what it takes where nothing else is asked for. It is for one device
    of any of the platforms. InputError for a pipeline that has no sampler, for values out of range, for platforms that
    are none, and where out is there.
    """
    check_platforms(platforms)
    if not isinstance(pipe, DiffusionPipeline):
        raise InputError(f"a {type(pipe).__name__} has no sampler to export: give the workdir of a diffusion model")
    _check_flatbuffers()
    codec = pipe.codec_of(height, width)
    guidance = dict(
        scale=guidance_scale, interval=guidance_interval, rescale=guidance_rescale, classifier_scale=classifier_scale
    )
    options = dict(batch_size=batch_size, steps=steps, image=codec.image, eta=eta)
    program = exported(pipe, platforms=platforms, **options, **guidance)
    blob, grids = bytes(program.exported.serialize()), _grids(pipe, pipe.num_steps(steps))
    size = len(blob) + sum(array.nbytes for array in (*program.weights.values(), *grids.values())) + ROOM
    with new_folder(Path(out), size) as folder:
        (folder / PROGRAM).write_bytes(blob)
        _write(folder / WEIGHTS, program.weights)
        _write(folder / GRIDS, grids)
        facts = {
            "format": FORMAT,
            "marble": marble.__version__,
            "command": command,
            **_of_program(program, blob),
            "steps": pipe.num_steps(steps),
            "sampler": type(pipe.sampler).__name__,
            "image": {"shape": list(codec.image.shape), "levels": codec.image.levels},
            "told": told(pipe.conditioner, folder),
            "weights": [_described(name, array) for name, array in sorted(program.weights.items())],
            "arguments": _arguments(program.arguments, _untold(pipe, codec.image)),
            "files": {name: _checked(folder / name) for name in (PROGRAM, WEIGHTS, GRIDS)},
        }
        (folder / "sampler.json").write_text(strict_json.dumps_config(facts, indent=1) + "\n", encoding="utf-8")
        shutil.copy(Path(__file__).with_name("standalone.py"), folder / "sample.py")
    return Path(out)


def _check_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError("jax.export writes by the package flatbuffers, which is not there: pip install flatbuffers")


def _of_program(program: Program, blob: bytes) -> dict[str, Any]:
    """How jax is to take the program: what its own file says too, for a jax without flatbuffers."""
    found = program.exported
    if found.ordered_effects or found.unordered_effects or found.nr_devices != 1:
        raise ValueError(f"a program of effects, or of {found.nr_devices} devices, is not to be exported")
    module = found.mlir_module_serialized
    return {
        "jax": jax.__version__,
        "calling_convention_version": found.calling_convention_version,
        "platforms": list(found.platforms),
        "stablehlo": [blob.index(module), len(module)],
        "uses_global_constants": found.uses_global_constants,
        "module_kept_var_idx": list(found.module_kept_var_idx),
        "compiler_options": {"cpu": compiler_options(gradients=False, platform="cpu")},
        "batch_size": len(program.arguments["rows.index"]),
        "results": [
            {"name": name, "shape": list(aval.shape), "dtype": str(aval.dtype)}
            for name, aval in zip(("floats", "images"), found.out_avals, strict=True)
        ],
    }


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}


def _arguments(arguments: Mapping[str, np.ndarray], untold: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each argument in the program's order; what rows and numbers are where nothing is asked for."""
    found = []
    for name, array in sorted(arguments.items()):
        entry = _described(name, array)
        if name.startswith("rows.") and name != "rows.index":
            row = untold.get(name.removeprefix("rows."))
            entry["default"] = None if row is None else row[0].tolist()
        if name.startswith(("guidance.", "sampler.")):
            entry |= {"is_number": True, "default": float(array)}
        found.append(entry)
    return found


def _untold(pipe: DiffusionPipeline, image: Any) -> Mapping[str, np.ndarray]:
    """The rows of one image of which nothing is said; none where the model has to be told."""
    try:
        return pipe.conditioner.of_request(1, {}, image)
    except InputError:
        return {}


def _grids(pipe: DiffusionPipeline, default: int) -> dict[str, np.ndarray]:
    """The levels of each number of steps, n + 1 of them, one after the other."""
    numbers, grids = [], []
    most = pipe.schedule.num_train_timesteps or max(default, MOST_GRIDS)
    with _quiet():
        for number in sorted({*range(1, min(most, MOST_GRIDS) + 1), default, most}):
            try:
                level = pipe.grid(number, sampler=pipe.sampler)
            except InputError:  # of leading, with an offset: some numbers go outside of training's steps
                continue
            numbers.append(number)
            grids.append([np.asarray(values)[: number + 1] for values in level])
    packed = zip(("t", "alpha", "sigma"), zip(*grids, strict=True), strict=True)
    return {"numbers": np.int32(numbers), **{f"levels.{name}": np.concatenate(parts) for name, parts in packed}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each number of steps whose first level is not all noise."""
    logger = logging.getLogger("marble.sampling.grid")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    safetensors_file.write(path, arrays.items(), {name: (array.shape, array.dtype) for name, array in arrays.items()})


def _checked(path: Path) -> dict[str, int]:
    """What tells the file from a damaged one, read a part at a time: weights may be of gigabytes."""
    crc32 = 0
    with path.open("rb") as file:
        while part := file.read(2**24):
            crc32 = zlib.crc32(part, crc32)
    return {"size": path.stat().st_size, "crc32": crc32}
