"""The flags of which parameters of a model draw images and how, which marble sample, evaluate and demo share."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from marble.errors import InputError

PARAMETERS = ("step", "best", "raw_params", "ema_length", "dtype", "lora", "lora_scale")
"""Which parameters: arguments of ``marble.load``."""
GUIDES = ("guide", "classifier")
"""Other models beside it: arguments of ``marble.load`` too."""
SAMPLING = (
    *("sampler", "steps", "eta", "classifier_scale"),
    *("guidance_scale", "guidance_interval", "guidance_rescale"),
)
"""How they draw: arguments of ``DiffusionPipeline.sample``."""


def define_parameters(values: flags.FlagValues) -> None:
    """PARAMETERS."""
    text = dict(flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint to use (default: the newest whole one).", **text)
    flags.DEFINE_bool("best", False, "Use the checkpoint that was measured to be the best while it trained.", **text)
    flags.DEFINE_bool("raw_params", False, "Use the last parameters instead of their moving average.", **text)
    flags.DEFINE_float("ema_length", None, "Average over this share of the training (needs post_hoc_ema).", **text)
    flags.DEFINE_string("dtype", None, "float32 or bfloat16, what is computed in (default: the config's).", **text)
    flags.DEFINE_string("lora", None, "File of adapters for the network (LoRA).", **text)
    flags.DEFINE_float("lora_scale", 1.0, "How much of what --lora adds.", **text)


def define(values: flags.FlagValues) -> None:
    """These flags."""
    define_parameters(values)
    text = dict(flag_values=values)
    flags.DEFINE_string("guide", None, "Workdir of a weaker model to go away from (autoguidance).", **text)
    flags.DEFINE_string(
        "classifier", None, "File of an ADM classifier of noisy images, which guides to --label.", **text
    )
    flags.DEFINE_float("classifier_scale", None, "How far to go along its gradient (default 1).", **text)
    flags.DEFINE_string("sampler", None, "Name of the sampler (default: the config's).", **text)
    flags.DEFINE_integer("steps", None, "Sampling steps, at most T (default: the config's).", **text)
    flags.DEFINE_float("eta", None, "Share of the noise that the sampler ddim draws anew, 0..1.", **text)
    flags.DEFINE_float(
        "guidance_scale", None, "How far to go towards the label or text; 1 is the model as it is.", **text
    )
    flags.DEFINE_list("guidance_interval", None, "LOW,HIGH: the noise levels sigma / alpha that are guided.", **text)
    flags.DEFINE_float("guidance_rescale", None, "Share of the deviation before guidance to go back to, 0..1.", **text)


def of_parameters(values: flags.FlagValues) -> Mapping[str, Any]:
    """The values of PARAMETERS."""
    return {name: values[name].value for name in PARAMETERS}


def of_model(values: flags.FlagValues) -> Mapping[str, Any]:
    """The values of PARAMETERS and GUIDES."""
    return {**of_parameters(values), **{name: values[name].value for name in GUIDES}}


def of_sampling(values: flags.FlagValues) -> Mapping[str, Any]:
    """The values of SAMPLING, their numbers read; InputError where one isn't."""
    given = {name: values[name].value for name in SAMPLING}
    return {**given, "guidance_interval": numbers("guidance_interval", values.guidance_interval)}


def numbers(flag: str, values: list[str] | None) -> list[float] | None:
    """The numbers of a flag that takes a list; InputError where one isn't."""
    try:
        return None if values is None else [float(value) for value in values]
    except ValueError as error:
        raise InputError(f"--{flag}={','.join(values)} must be numbers with commas between them") from error
