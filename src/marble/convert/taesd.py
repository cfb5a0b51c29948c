"""The tiny autoencoder TAESD: diffusers' ``AutoencoderTiny``, and the two files that it is published as."""

from collections.abc import Iterator, Mapping
from typing import Any

from marble.convert.names import CONV, Entry, layer, renamed
from marble.convert.published import check_supported, one_number_of_channels
from marble.convert.tensors import Tensor, Tensors
from marble.errors import InputError
from marble.models.tiny_autoencoder import TinyAutoencoder

NAME = "AutoencoderTiny"
SUPPORTED = {
    "act_fn": ("relu",),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "latent_magnitude": (3,),
    "latent_shift": (0.5,),
    "shift_factor": (0.0, None),
}


def model_of(config: Mapping[str, Any], **fields: Any) -> TinyAutoencoder:
    """The model of a published config; fields are of what no config says, such as dtype. InputError if unsupported."""
    check_supported(config, NAME, SUPPORTED)
    encoder = config.get("encoder_block_out_channels", (64,) * 4)
    widths = {*encoder, *config.get("decoder_block_out_channels", encoder)}
    blocks, decoder_blocks = (
        config.get("num_encoder_blocks", (1, 3, 3, 3)),
        config.get("num_decoder_blocks", (3, 3, 3, 1)),
    )
    if len(widths) != 1 or len(blocks) != len(decoder_blocks):
        raise InputError(f"{NAME} whose levels are of several widths, or not as many on both sides, is not supported")
    return TinyAutoencoder(
        image_channels=one_number_of_channels(config, NAME, 3),
        latent_channels=config.get("latent_channels", 4),
        channels=widths.pop(),
        num_blocks=tuple(blocks),
        decoder_num_blocks=tuple(reversed(decoder_blocks)),
        **fields,
    )


def scale_of(config: Mapping[str, Any]) -> float:
    """What latents are multiplied by before they diffuse."""
    return config.get("scaling_factor", 1.0)


def config_of(model: TinyAutoencoder, *, scale: float = 1.0) -> dict[str, Any]:
    """What diffusers is told of a model."""
    widths = [model.channels] * len(model.num_blocks)
    return {
        "_class_name": NAME,
        "in_channels": model.image_channels,
        "out_channels": model.image_channels,
        "latent_channels": model.latent_channels,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "num_encoder_blocks": list(model.num_blocks),
        "num_decoder_blocks": list(reversed(model.decoder_num_blocks)),
        "scaling_factor": scale,
        **{key: values[0] for key, values in SUPPORTED.items()},
    }


def table(model: TinyAutoencoder) -> list[Entry]:
    """Our paths and diffusers' names."""
    return [*_encoder(model, "encoder.layers."), *_decoder(model, "decoder.layers.")]


def as_now(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of ``taesd_encoder`` and ``taesd_decoder``, each under its half's name, by diffusers' names.

    The published decoder counts the tanh before its first layer, which diffusers does not.
    """

    def name_of(name: str) -> str:
        half, _, rest = name.partition(".")
        if rest.startswith("layers."):
            return name
        index, _, rest = rest.partition(".")
        return f"{half}.layers.{int(index) - (half == 'decoder')}.{rest}" if index.isdecimal() else name

    return renamed(tensors, name_of)


def _encoder(model: TinyAutoencoder, prefix: str) -> Iterator[Entry]:
    index = 0
    for level, count in enumerate(model.num_blocks):
        ours = f"encoder/down_{level}_sample" if level else "encoder/conv_in"
        yield from layer(ours, f"{prefix}{index}", CONV, use_bias=level == 0)
        for i in range(count):
            yield from _block(f"encoder/down_{level}_block_{i}", f"{prefix}{index + 1 + i}")
        index += 1 + count
    yield from layer("encoder/conv_out", f"{prefix}{index}", CONV)


def _decoder(model: TinyAutoencoder, prefix: str) -> Iterator[Entry]:
    yield from layer("decoder/conv_in", f"{prefix}0", CONV)
    index = 2  # after an activation
    for level, count in reversed(list(enumerate(model.decoder_num_blocks))):
        for i in range(count):
            yield from _block(f"decoder/up_{level}_block_{i}", f"{prefix}{index + i}")
        index += count
        if level > 0:
            yield from layer(f"decoder/up_{level}_sample", f"{prefix}{index + 1}", CONV, use_bias=False)
            index += 2
    yield from layer("decoder/conv_out", f"{prefix}{index}", CONV)


def _block(ours: str, theirs: str) -> Iterator[Entry]:
    for i in range(3):
        yield from layer(f"{ours}/conv_{i}", f"{theirs}.conv.{2 * i}", CONV)
