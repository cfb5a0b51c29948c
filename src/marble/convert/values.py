"""What kinds of values the keys of published configs have, whatever the network: checked as a file is read.

Configs are data of others. A side of 0, a width of a million millions or a word for a number would else be met deep
within, where nothing knows the file any more. None says nothing, and what it stands for is each network's own.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from marble.errors import InputError

MOST_COUNT = 2**24
MOST_LAYERS = 1000


class Kind(NamedTuple):
    """What a value is to be, and how that is said."""

    fits: Callable[[Any], bool]
    told: str


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(low: float, *, above: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and (value > low if above else value >= low)

    return fits


def _or_listed(fits: Callable[[Any], bool], depth: int = 2) -> Callable[[Any], bool]:
    """A value, or a list of such, in which there may be lists; not an empty one."""

    def all_fit(value: Any, depth: int = depth) -> bool:
        if isinstance(value, list | tuple):
            return depth > 0 and len(value) > 0 and all(all_fit(item, depth - 1) for item in value)
        return fits(value)

    return all_fit


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


COUNT = Kind(_or_listed(_is_whole(1, MOST_COUNT)), f"a whole number from 1 to {MOST_COUNT}, or a list of such")
LAYERS = Kind(_or_listed(_is_whole(1, MOST_LAYERS)), f"a whole number from 1 to {MOST_LAYERS}, or a list of such")
WHOLE = Kind(_is_whole(0, 2**31), "a whole number, 0 or more")
ABOVE_0 = Kind(_is_number(0, above=True), "a number above 0")
FROM_0 = Kind(_is_number(0), "a number, 0 or more")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
TEXTS = Kind(lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)), "a list of names")
NUMBERS = Kind(lambda value: isinstance(value, list | tuple) and all(map(_is_number(0), value)), "a list of numbers")
NAME = Kind(_is_text, "a name")
NAMES = Kind(lambda value: isinstance(value, Mapping), "an object of names")

KINDS_OF_VALUES: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            *("sample_size", "image_size", "patch_size", "in_channels", "out_channels", "latent_channels"),
            *("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels"),
            *("attention_head_dim", "num_attention_heads", "cross_attention_dim", "caption_projection_dim"),
            *("norm_num_groups", "attn_norm_num_groups", "addition_time_embed_dim", "num_class_embeds"),
            *("projection_class_embeddings_input_dim", "time_embedding_dim", "num_embeds_ada_norm"),
            *("vocab_size", "type_vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"),
            *("projection_dim", "num_channels", "num_train_timesteps"),
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            *("layers_per_block", "num_layers", "num_hidden_layers", "transformer_layers_per_block"),
            *("num_encoder_blocks", "num_decoder_blocks", "solver_order"),
        ),
        LAYERS,
    ),
    **dict.fromkeys(("steps_offset", "freq_shift", "downsample_padding"), WHOLE),
    **dict.fromkeys(("scaling_factor", "norm_eps", "layer_norm_eps", "mlp_ratio", "clip_sample_range"), ABOVE_0),
    **dict.fromkeys(("beta_start", "beta_end", "dropout", "sigma_min", "sigma_max", "sample_max_value"), FROM_0),
    **dict.fromkeys(
        (
            *("clip_sample", "thresholding", "set_alpha_to_one", "skip_prk_steps", "rescale_betas_zero_snr"),
            *("flip_sin_to_cos", "use_linear_projection", "lower_order_final", "predict_x0", "use_karras_sigmas"),
        ),
        FLAG,
    ),
    **dict.fromkeys(("down_block_types", "up_block_types"), TEXTS),
    **dict.fromkeys(
        (
            *("beta_schedule", "prediction_type", "variance_type", "timestep_spacing", "algorithm_type", "solver_type"),
            *("hidden_act", "act_fn", "norm_type"),
        ),
        NAME,
    ),
    "trained_betas": NUMBERS,
    "id2label": NAMES,
}


NEEDED = frozenset({"in_channels", "latent_channels", "block_out_channels", "layers_per_block", "patch_size"})
"""Keys that can be left out, and can't be None."""


def check_values(config: Mapping[str, Any], source: str) -> None:
    """InputError, which begins with source, for a value that is not of its key's kind, also of configs within."""
    for key, value in config.items():
        kind = KINDS_OF_VALUES.get(key)
        is_said = value is not None or key in NEEDED
        if kind is not None and is_said and not kind.fits(value):
            raise InputError(f"{source}: {key} is {_cut(value)}, and must be {kind.told}")
        if isinstance(value, Mapping):
            check_values(value, source)


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
