"""Runs of two steps of the parts of text to image, each reading what the ones before have left."""

from captioned import write

from marble import builders, run
from marble.config import load_config

SIDES = {"autoencoder": 16, "clip": 16, "latent": 16, "upsampler": 16, "regression": 4}
"""Of what a part reads; upsamplers make it four times as large."""


def train(folder, *names):
    """A workdir in the folder for each of the parts."""
    if not (folder / "data").exists():
        write(folder / "data", splits=("train",), num=64)
    for name in names:
        config = _config(folder, name)
        config.data.update({"source": str(folder / "data"), "data_dir": str(folder / "prepared")})
        config.data.image_size = SIDES[name] * (4 if name in ("upsampler", "regression") else 1)
        run.run(builders.complete(config), str(folder / name))
    return folder


def _config(folder, name):
    if name == "regression":
        config, plain = (load_config(f"emoji/upsampler:{variant}") for variant in ("smoke", "tiny_regression"))
        config.objective, config.upsampler, config.model = "upsampler", plain.upsampler, plain.model
        for section in ("conditioner", "low_res", "diffusion", "sampling"):
            del config[section]
        return config
    config = load_config(f"emoji/{name}:smoke")
    if name == "latent":
        clip = (str(folder / "clip" / "clip"),)
        config.autoencoder.update({"path": str(folder / "autoencoder" / "vae"), "cache": str(folder / "latents")})
        config.text.update({"encoders": clip, "tokenizers": clip})
    return config
