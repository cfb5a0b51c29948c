"""marble convert: checkpoints from one library's form to another's.

  marble convert IN OUT [--to diffusers|marble|lora] [--dtype float32|bfloat16|float16]

  marble convert stable-diffusion-v1-5 runs/sd15      a folder of diffusers becomes a workdir
  marble convert runs/cifar10 cifar10-diffusers       a run becomes a folder that from_pretrained opens
  marble convert v1-5.ckpt runs/sd15 --tokenizer stable-diffusion-v1-5/tokenizer
  marble convert sd15 sd15-half --to diffusers --dtype bfloat16
  marble convert runs/lora lora --to lora             a run's adapters, as load_lora_weights reads them

IN is a workdir; the folder of a pipeline of diffusers, or of a part of one, in any format of weights; TAESD's two files
in a folder; or one file of weights: Stable Diffusion by CompVis' names, the U-Nets of iDDPM and ADM, DiT, DDPM's first
PyTorch copies. A workdir becomes a folder of diffusers, all else a workdir, unless --to says otherwise. A part alone is
written anew in diffusers' form.

A workdir that was made has averaged parameters alone: sample from it, or begin runs with config.init_from. OUT must be
new or empty, and is there when it is whole.
"""

from absl import flags

from marble.cli.flags import parse, require
from marble.errors import InputError

PLACES = ("in", "out")
KINDS, TYPES, PREDICTIONS = ("diffusers", "marble", "lora"), ("float32", "bfloat16", "float16"), ("eps", "v")


def define(values: flags.FlagValues) -> None:
    """The flags of marble convert."""
    text = dict(flag_values=values)
    flags.DEFINE_string("in", None, "What is converted, the first of the two words.", **text)
    flags.DEFINE_string("out", None, "The folder that is written, the second one.", **text)
    flags.DEFINE_enum("to", None, KINDS, "What it becomes (default: the other kind).", **text)
    flags.DEFINE_enum("dtype", None, TYPES, "Of the files of weights (default: as they are).", **text)
    flags.DEFINE_integer("step", None, "Of a workdir, the checkpoint (default: the newest whole one).", **text)
    flags.DEFINE_list("tokenizer", None, "Folder of a CompVis file's tokenizer; FOLDER,FOLDER_2 of SDXL's.", **text)
    flags.DEFINE_enum("prediction_type", None, PREDICTIONS, "What a CompVis file's U-Net predicts.", **text)
    flags.DEFINE_string("vae", None, "Folder of a DiT file's autoencoder.", **text)
    flags.DEFINE_integer("image_size", None, "Height of the images of a DDPM or ADM file.", **text)


def main(argv: list[str]) -> int:
    """Converts, and returns the exit status."""
    values = parse("convert", __doc__, placed(argv), define)
    require(values, *PLACES)
    from marble.conversion import convert

    names = ("to", "dtype", "step", "tokenizer", "prediction_type", "vae", "image_size")
    convert(values["in"].value, values.out, **{name: values[name].value for name in names}, progress=True)
    return 0


def placed(argv: list[str]) -> list[str]:
    """The words with --in and --out before the first two of them, where these are no flags."""
    count = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    if count == 0 and argv and not argv[0].startswith(("--in", "--out", "-h", "--h")):
        raise InputError(f"marble convert takes IN and OUT first, and flags after them: {argv[0]} came first")
    if count > len(PLACES):
        raise InputError(f"marble convert takes IN and OUT, but was given {' '.join(argv[:count])!r}")
    return [f"--{name}={word}" for name, word in zip(PLACES, argv[:count], strict=False)] + argv[count:]
