"""marble evaluate: measures a trained model on the images of a data set.

  marble evaluate --workdir runs/digits --metrics bpd --split test --num 360

bpd: how many bits a dimension the model needs for an image: L_T, L_{t-1} by tenths of the steps, L_0 and their sum,
the variational bound, with standard errors over images; and beside it the likelihood under the probability flow. Of a
variational autoencoder: the reconstruction, KL(q(z | x) || p(z)), their sum, and the importance-weighted bound. All is
written to WORKDIR/metrics.json, with every term and the rate-distortion curve, by metric and split: "test", or with
fewer images than the split has "test[NUM]", beside what the whole split gave.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from absl import flags

from marble import strict_json
from marble.cli.flags import parse, refuse, require
from marble.errors import InputError
from marble.schema import nearest
from marble.storage import replace_text

logger = logging.getLogger(__name__)

METRICS = ("bpd",)
OF_FLOW = ("ode_steps", "ode_divergence", "ode_dequantisation")
FLAGS_OF = {"flow": ("ode", *OF_FLOW)}
"""The flags of an option that has not its own name."""


def define(values: flags.FlagValues) -> None:
    """The flags of marble evaluate."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run.", **text)
    flags.DEFINE_list("metrics", ["bpd"], f"What to measure, of {', '.join(METRICS)}.", **text)
    flags.DEFINE_integer("num", None, "How many images, evenly spaced over the split (default: all).", **text)
    flags.DEFINE_string("split", None, "Split of the data set (default: the held-out one).", **text)
    flags.DEFINE_integer("seed", 0, "Seed of all noise; image i's depends on the seed and i alone.", **text)
    flags.DEFINE_integer("step", None, "Checkpoint to use (default: the newest whole one).", **text)
    flags.DEFINE_bool("raw_params", False, "Use the last parameters instead of their moving average.", **text)
    flags.DEFINE_float("ema_length", None, "Average over this share of the training (needs post_hoc_ema).", **text)
    flags.DEFINE_integer("batch_size", None, "Images in one call (default: the config's for sampling).", **text)
    flags.DEFINE_string("variance_type", None, "Variance of reverse steps (default: the sampler's or model's).", **text)
    flags.DEFINE_string("decoder", None, "exact (default), or tanh: the DDPM reference's approximation.", **text)
    flags.DEFINE_bool("ode", True, "Also compute the likelihood under the probability flow.", **text)
    flags.DEFINE_integer("ode_steps", 100, "Steps of the flow, each of four calls of the network.", **text)
    flags.DEFINE_string("ode_divergence", "hutchinson", "hutchinson, or exact: one derivative a dimension.", **text)
    flags.DEFINE_string("ode_dequantisation", "variational", "variational, or uniform within the bins.", **text)


def main(argv: list[str]) -> int:
    """Evaluates, and returns the exit status."""
    values = parse("evaluate", __doc__, argv, define)
    require(values, "workdir")
    for name in values.metrics or [""]:
        if name not in METRICS:
            raise InputError(f"--metrics {name!r} is unknown{nearest(name, METRICS)}")
    if not values.ode:
        refuse(values, OF_FLOW, "is for the probability flow, which --noode leaves out")
    from marble.parallel import hosts, use_compilation_cache
    from marble.pipelines import Flow

    flow = Flow(values.ode_steps, values.ode_divergence, values.ode_dequantisation) if values.ode else None
    use_compilation_cache()
    with hosts.joined(command=" ".join(argv)):
        return measure(values, flow)


def measure(values: flags.FlagValues, flow: Any) -> int:
    """Evaluates in all processes; the first one writes what they found."""
    from marble import builders, loading, run, workdir
    from marble.parallel import agreement, explained_memory_error
    from marble.pipelines.measured import MeasureOptions

    if loading.is_published(values.workdir):
        raise InputError(f"{values.workdir} is a published checkpoint, whose data are not known: evaluate runs")
    config, data = workdir.recall(values.workdir)
    source = builders.data_config(config).open()
    if (tuple(source.image_shape), source.levels) != data.image:
        raise InputError(
            f"{values.workdir} was trained on {data.image}, but {source.name} has {source.image_shape} now"
        )
    split = values.split or run.held_out_split(source)
    if split is None:
        raise InputError(f"{source.name} has no held-out split: give --split {'|'.join(source.splits)}")
    examples = source.read(split)
    which = dict(raw_params=values.raw_params, ema_length=values.ema_length)
    step, pipe = loading.load_step(values.workdir, step=values.step, **which)
    for name, reason in pipe.options_unread().items():
        refuse(values, FLAGS_OF.get(name, (name,)), reason)
    options = MeasureOptions(values.num, values.seed, values.batch_size, values.variance_type, values.decoder, flow)
    with explained_memory_error():
        found = pipe.measure(examples, options, progress=agreement.is_first())
    if not agreement.is_first():
        return 0
    settings = {
        "step": step,
        "params": params_name(values),
        "seed": values.seed,
        "levels": data.image.levels,
        "num": found.num,
        **found.settings,
    }
    print("\n".join([heading(split, settings, found.note), *rows_of(found.rows)]))
    path = keep(values.workdir, "bpd", entry(split, found.num, len(examples)), {**settings, **found.kept})
    logger.info("wrote %s", path)
    return 0


def params_name(values: flags.FlagValues) -> str:
    """What the parameters are called that were measured."""
    if values.ema_length is not None:
        return f"average of length {values.ema_length:g}"
    return "params" if values.raw_params else "ema_params"


def heading(split: str, settings: Mapping[str, Any], note: str) -> str:
    """What was measured, and the names of the columns."""
    return (
        f"{split}: {settings['num']} images of {settings['levels']} levels, checkpoint {settings['step']}, "
        f"{settings['params']}, seed {settings['seed']}{note}\n{'':34}  bits/dim   standard error"
    )


def rows_of(estimates: Mapping[str, Any]) -> list[str]:
    """One line an estimate."""
    # Adding 0.0 makes -0.0 plain: a KL of rounding errors is no less than 0.
    return [f"{name:34}  {round(e.mean, 5) + 0.0:8.5f}   {e.standard_error:.5f}" for name, e in estimates.items()]


def entry(split: str, num: int, total: int) -> str:
    """The key of num images of a split of total: a part never takes the place of the whole."""
    return split if num == total else f"{split}[{num}]"


def keep(directory: str, metric: str, split: str, found: Mapping[str, Any]) -> str:
    """Puts a metric of a split into metrics.json, beside what is there, and returns its path."""
    from etils import epath

    path = epath.Path(directory) / "metrics.json"
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
        kept = {**kept, metric: {**kept.get(metric, {}), split: found}}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): move it away") from error
    replace_text(path, strict_json.dumps(kept, indent=1) + "\n")
    return str(path)
