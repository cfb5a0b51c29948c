"""marble export: a trained sampler as a program that runs without marble, on CPU, GPU or TPU.

  marble export --workdir runs/digits --out exported
  marble export --workdir sd15 --out exported --platforms cuda --sampler dpm_solver_2m --steps 20 --batch_size 4

  python exported/sample.py --num 16 --seed 0 --out images.png        needs jax and numpy alone

OUT has the whole chain, from a seed to images, as jax.export writes it (StableHLO); the weights as safetensors; a JSON
that says what the program reads; and sample.py. Seed, number of steps, labels, tokens of texts and guidance are
arguments: one export serves all. Image i depends on the seed and i alone, and is that of marble sample with the same
--batch_size on one device.

--steps, --eta and the flags of guidance are what sample.py takes where it is asked for nothing else. The sampler, the
size of images and --batch_size are fixed. OUT must be new or empty, and is there when it is whole.
"""

import logging
import shlex
from pathlib import Path

from absl import flags

from marble.cli import drawing
from marble.cli.flags import check_writable, parse, require

logger = logging.getLogger(__name__)

PLATFORMS = ["cpu", "cuda", "tpu"]


def define(values: flags.FlagValues) -> None:
    """The flags of marble export."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run.", **text)
    flags.DEFINE_string("out", None, "The folder that is written.", **text)
    flags.DEFINE_list("platforms", PLATFORMS, "What the program is for, some of these.", **text)
    flags.DEFINE_integer("batch_size", None, "Images in one call (default: the config's).", **text)
    flags.DEFINE_integer("height", None, "Of the images, for models that make any size (default: the model's).", **text)
    flags.DEFINE_integer("width", None, "The same for their width.", **text)
    drawing.define(values)


def main(argv: list[str]) -> int:
    """Exports, and returns the exit status."""
    values = parse("export", __doc__, argv, define)
    require(values, "workdir", "out")
    check_writable("out", values.out)
    from marble.conversion.writing import check_new, in_units, size_of_folder
    from marble.export import export
    from marble.export.program import check_platforms
    from marble.loading import load

    check_platforms(values.platforms)
    check_new(Path(values.out))
    pipe = load(values.workdir, sampler=values.sampler, **drawing.of_model(values))
    how = {name: value for name, value in drawing.of_sampling(values).items() if name != "sampler"}
    size = dict(batch_size=values.batch_size, height=values.height, width=values.width)
    command = f"marble export {shlex.join(argv)}"
    folder = export(pipe, values.out, platforms=tuple(values.platforms), command=command, **size, **how)
    logger.info("wrote %s (%s): run python %s", folder, in_units(size_of_folder(folder)), folder / "sample.py")
    return 0
