"""marble sample: draws images from a trained model.

  marble sample --workdir runs/digits --num 64 --seed 0 --out out
  marble sample --workdir sd15 --text "a red fox" --negative_text blurry --num 4 --steps 20 --sampler dpm_solver_2m

Writes OUT/samples.png (a grid), OUT/samples.npz (arr_0, uint8 [num h w c]) and, with --gif, OUT/trajectory.gif: the
reverse process from noise to image. Image i depends on the seed and i alone: --first 64 goes on where 64 images ended.

A workdir is that of a run, or a checkpoint's folder as diffusers has it.

  marble sample --workdir sd15 --text @prompts.txt                  one image a prompt
  marble sample --workdir sd15 --text @prompts.txt --first 5        of 5 prompts, another image each
  marble sample --workdir sd15 --text "a fox" --text "a hare" --num 6

Images take the prompts in turn, and those of --negative_text; @FILE has one on each line. To see one image alone, give
its index as --first, its prompt, and --num 1; other images of a prompt are those of other indices, or another --seed.

  marble sample --workdir latent --text "a red fox" --upsampler upsampler     then made larger by another run

Images from images: with --init_image F [--strength S] variations of it; with --mask M too, those of its pixels drawn
anew that are white in M; with --interpolate A B the images between two.
"""

import logging
from pathlib import Path
from typing import Any

from absl import flags

from marble.cli import drawing, edit, prompts
from marble.cli.flags import check_writable, parse, require

logger = logging.getLogger(__name__)

NUM_FRAMES = 50


def define(values: flags.FlagValues) -> None:
    """The flags of marble sample."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run.", **text)
    flags.DEFINE_string("out", "out", "Folder for the images.", **text)
    flags.DEFINE_integer("seed", 0, "Seed of the run of images.", **text)
    flags.DEFINE_integer("first", 0, "Index of the first image.", **text)
    flags.DEFINE_string("label", None, "Class of all images, its name or number, for a conditional model.", **text)
    flags.DEFINE_integer("height", None, "Of the images, for models that make any size (default: the model's).", **text)
    flags.DEFINE_integer("width", None, "The same for their width.", **text)
    flags.DEFINE_integer("batch_size", None, "Images in one call (default: the config's).", **text)
    flags.DEFINE_string("upsampler", None, "Workdir of a model that makes the images larger.", **text)
    flags.DEFINE_bool("gif", False, "Write trajectory.gif too.", **text)
    drawing.define(values)
    prompts.define(values)
    edit.define(values)


def main(argv: list[str]) -> int:
    """Samples, and returns the exit status."""
    values = parse("sample", __doc__, edit.joined(argv), define)
    require(values, "workdir")
    edits = edit.check(values)
    prompts.read(values)
    written = ["samples.png", "samples.npz", *(["trajectory.gif"] if values.gif else [])]
    check_writable("out", values.out, written)
    from marble.parallel import agreement, hosts, use_compilation_cache
    from marble.pipelines import pictures

    use_compilation_cache()
    with hosts.joined(command=" ".join(argv)):
        drawn = draw(values, edits, upsampler(values))
    if not agreement.is_first():
        return 0
    images, frames = drawn if values.gif else (drawn, None)
    out = Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    columns = prompts.columns(values.text, len(images))
    pictures.save_png(out / "samples.png", images, columns)
    pictures.save_npz(out / "samples.npz", images)
    if frames is not None:
        pictures.save_gif(out / "trajectory.gif", frames.x, columns)
    logger.info("wrote %s", ", ".join(str(out / name) for name in written))
    return 0


def upsampler(values: flags.FlagValues) -> Any:
    """The pipeline of --upsampler, or None; InputError for one that does not make what is drawn larger."""
    if values.upsampler is None:
        return None
    from marble.errors import InputError
    from marble.loading import load, recalled
    from marble.pipelines import UpsamplerPipeline

    pipe = load(values.upsampler, dtype=values.dtype)
    reads = pipe if isinstance(pipe, UpsamplerPipeline) else getattr(pipe, "conditioner", None)
    if not hasattr(reads, "small"):
        raise InputError(
            f"--upsampler {values.upsampler} is of a model that makes no images larger: give one of "
            "conditioner='low_res' or objective='upsampler'"
        )
    height, width, channels = recalled(values.workdir)[1].image.shape
    drawn = (values.height or height, values.width or width, channels)
    if drawn != reads.small.shape:
        wanted, found = ("x".join(map(str, shape)) for shape in (reads.small.shape, drawn))
        raise InputError(
            f"--upsampler {values.upsampler} reads images of {wanted}, and --workdir {values.workdir} draws {found}: "
            "give an upsampler that was trained on images so much larger than these"
        )
    return pipe


def draw(values: flags.FlagValues, edits: bool, larger: Any) -> Any:
    """The images that were asked for, made larger by a pipeline or None, and with --gif the frames as they were drawn.

    In several processes, each has all.
    """
    from marble.parallel import agreement

    drawn = draw_first(values, edits)
    if larger is None:
        return drawn
    images, frames = drawn if values.gif else (drawn, None)
    options = dict(seed=values.seed, progress=agreement.is_first())
    images = larger.sample(len(images), low_res=images, first=values.first, **options)
    return (images, frames) if values.gif else images


def draw_first(values: flags.FlagValues, edits: bool) -> Any:
    """The images as the model of --workdir draws them, and with --gif the frames."""
    from marble.loading import load
    from marble.parallel import agreement, explained_memory_error

    pipe = load(values.workdir, sampler=values.sampler, **drawing.of_model(values))
    with explained_memory_error():
        if edits:
            return edit.edited(pipe, values)
        num = prompts.number_of_images(values, pipe)
        how = {name: value for name, value in drawing.of_sampling(values).items() if name != "sampler"}
        return pipe.sample(
            num,
            seed=values.seed,
            labels=values.label,
            text=prompts.in_turn(values.text, num, values.first),
            negative_text=prompts.in_turn(values.negative_text, num, values.first),
            height=values.height,
            width=values.width,
            first=values.first,
            batch_size=values.batch_size,
            **how,
            num_frames=NUM_FRAMES if values.gif else 0,
            progress=agreement.is_first(),
        )
