"""What kinds of values the keys of published configs have: checked as a file is read, before any network is made.

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

    def listed(self, depth: int = 1) -> "Kind":
        """Such a value, or a list of them, in which there may be lists to that depth; not an empty one."""

        def all_fit(value: Any, depth: int = depth) -> bool:
            if _is_list(value):
                return depth > 0 and len(value) > 0 and all(all_fit(item, depth - 1) for item in value)
            return self.fits(value)

        return Kind(all_fit, f"{self.told}, or a list of such")

    def list(self) -> "Kind":
        """A list of them, and not an empty one."""
        return Kind(
            lambda value: _is_list(value) and len(value) > 0 and all(map(self.fits, value)),
            f"a list, each {self.told}",
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _whole(low: int, high: int, told: str) -> Kind:
    return Kind(lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high, told)


def _number(is_allowed: Callable[[float], bool], told: str) -> Kind:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and is_allowed(value)

    return Kind(fits, told)


COUNT = _whole(1, MOST_COUNT, f"a whole number from 1 to {MOST_COUNT}")
LAYERS = _whole(1, MOST_LAYERS, f"a whole number from 1 to {MOST_LAYERS}")
WHOLE = _whole(0, 2**31, "a whole number, 0 or more")
ABOVE_0 = _number(lambda value: value > 0, "a number above 0")
FROM_0 = _number(lambda value: value >= 0, "a number, 0 or more")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
NAME = Kind(lambda value: isinstance(value, str), "a name")
NAMES = Kind(lambda value: isinstance(value, Mapping), "an object of names")
NUMBERS = Kind(lambda value: _is_list(value) and all(map(FROM_0.fits, value)), "a list of numbers")

KINDS_OF_VALUES: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            *("image_size", "patch_size", "in_channels", "out_channels", "latent_channels"),
            *("attention_head_dim", "num_attention_heads", "cross_attention_dim", "caption_projection_dim"),
            *("norm_num_groups", "attn_norm_num_groups", "addition_time_embed_dim", "num_class_embeds"),
            *("projection_class_embeddings_input_dim", "time_embedding_dim", "num_embeds_ada_norm"),
            *("vocab_size", "type_vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"),
            *("projection_dim", "num_channels", "num_train_timesteps"),
        ),
        COUNT,
    ),
    "sample_size": COUNT.listed(),
    **dict.fromkeys(
        ("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels"),
        COUNT.list(),
    ),
    **dict.fromkeys(
        ("layers_per_block", "num_layers", "num_hidden_layers", "transformer_layers_per_block", "solver_order"),
        LAYERS,
    ),
    **dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), LAYERS.list()),
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
    **dict.fromkeys(("down_block_types", "up_block_types"), NAME.list()),
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
A_LEVEL: Mapping[str, Kind] = {
    **dict.fromkeys(("attention_head_dim", "num_attention_heads", "cross_attention_dim"), COUNT.listed()),
    "layers_per_block": LAYERS.listed(),
    "transformer_layers_per_block": LAYERS.listed(2),
}
"""Keys that may have a value for each level, of the class that has levels with values of their own."""
WITH_LEVELS = "UNet2DConditionModel"
NEEDED = frozenset(
    {
        *("in_channels", "latent_channels", "block_out_channels", "layers_per_block", "patch_size", "num_layers"),
        *("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks"),
        *("norm_num_groups", "norm_eps", "dropout"),
    }
)
"""Keys of a network that can be left out, and can't be None."""
NEEDED_OF_SCHEDULERS = frozenset(
    {"num_train_timesteps", "beta_start", "beta_end", "timestep_spacing", "steps_offset"},
)
"""The same of a scheduler: a UNet2DModel has a num_train_timesteps that is None."""


def check_values(config: Mapping[str, Any], source: str) -> None:
    """InputError, which begins with source, for a value that is not of its key's kind, also of configs within."""
    name = str(config.get("_class_name")).removeprefix("Flax")
    kinds = {**KINDS_OF_VALUES, **A_LEVEL} if name == WITH_LEVELS else KINDS_OF_VALUES
    needed = NEEDED_OF_SCHEDULERS if name.endswith("Scheduler") else NEEDED
    for key, value in config.items():
        kind = kinds.get(key)
        is_said = value is not None or key in needed
        if kind is not None and is_said and not kind.fits(value):
            raise InputError(f"{source}: {key} is {_cut(value)}, and must be {kind.told}")
        if isinstance(value, Mapping):
            check_values(value, source)


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
