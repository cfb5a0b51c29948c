"""Runs of two steps of the parts of text to image, each reading what the ones before have left."""

from captioned import write

from marble import builders, run
from marble.config import load_config


def train_on_classes(folder, *names, data_dir):
    """The same of the family cifar10_text, on what is prepared in data_dir."""
    for name in names:
        config = _reading_parts(load_config(f"cifar10_text/{name}:smoke"), name, folder)
        config.data.data_dir = str(data_dir)
        run.run(builders.complete(config), str(folder / name))
    return folder


def train(folder, *names):
    """A workdir in the folder for each of the parts."""
    if not (folder / "data").exists():
        write(folder / "data", splits=("train",), num=64)
    for name in names:
        shipped = "emoji/upsampler:smoke_regression" if name == "regression" else f"emoji/{name}:smoke"
        config = _reading_parts(load_config(shipped), name, folder)
        config.data.update({"source": str(folder / "data"), "data_dir": str(folder / "prepared")})
        run.run(builders.complete(config), str(folder / name))
    return folder


def _reading_parts(config, name, folder):
    if name == "latent":
        clip = (str(folder / "clip" / "clip"),)
        config.autoencoder.update({"path": str(folder / "autoencoder" / "vae"), "cache": str(folder / "latents")})
        config.text.update({"encoders": clip, "tokenizers": clip})
    return config
