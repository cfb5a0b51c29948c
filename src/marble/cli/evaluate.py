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
from marble.config import nearest
from marble.errors import InputError
from marble.storage import replace_text

logger = logging.getLogger(__name__)

METRICS = ("bpd",)
OF_FLOW = ("ode_steps", "ode_divergence", "ode_dequantisation")
OF_STEPS = ("variance_type", "decoder")
"""The flags of the bound in steps, which the one in continuous time is not."""
OF_DIFFUSION = ("batch_size", *OF_STEPS, "ode", *OF_FLOW)


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
    from marble import builders, run, workdir
    from marble.parallel import explained_memory_error, hosts
    from marble.pipelines import VAEPipeline, bits_per_dim
    from marble.pipelines.evaluate import default_variance_type

    config, image = workdir.recall(values.workdir)
    source = builders.data_config(config).open()
    if (tuple(source.image_shape), source.levels) != image:
        raise InputError(f"{values.workdir} was trained on {image}, but {source.name} has {source.image_shape} now")
    split = values.split or run.held_out_split(source)
    if split is None:
        raise InputError(f"{source.name} has no held-out split: give --split {'|'.join(source.splits)}")
    examples = source.read(split)
    step, pipe = builders.load_step(values.workdir, step=values.step, raw_params=values.raw_params)
    settings = {
        "step": step,
        "params": "params" if values.raw_params else "ema_params",
        "seed": values.seed,
        "levels": image.levels,
    }
    if isinstance(pipe, VAEPipeline):
        bits = bits_of_vae(pipe, examples, values)
        settings["num"] = len(bits["elbo"])
        if not hosts.is_first():
            return 0
        bounds = {name: estimate(each) for name, each in bits.items()}
        print("\n".join([heading(split, settings), *rows_of(bounds)]))
        found = {**settings, **{name: e._asdict() for name, e in bounds.items()}}
        logger.info("wrote %s", keep(values.workdir, "bpd", entry(split, settings["num"], len(examples)), found))
        return 0
    in_steps = pipe.schedule.num_train_timesteps is not None
    if not in_steps:
        refuse(values, OF_STEPS, "is for schedules in steps, and this model's is in continuous time")
    with explained_memory_error():
        found = bits_per_dim(
            pipe,
            examples,
            num=values.num,
            seed=values.seed,
            variance_type=values.variance_type,
            decoder=values.decoder,
            flow=flow,
            batch_size=values.batch_size,
            progress=hosts.is_first(),
        )
    if not hosts.is_first():
        return 0
    settings |= {
        "num": found.num,
        "variance_type": values.variance_type or default_variance_type(pipe),
        "clip_sample": pipe.config.clip_sample,
        "decoder": (values.decoder or "exact") if in_steps else None,
        "flow": None if flow is None else vars(flow),
    }
    print(table(found, split, settings))
    path = keep(values.workdir, "bpd", entry(split, found.num, len(examples)), {**settings, **as_json(found)})
    logger.info("wrote %s", path)
    return 0


def bits_of_vae(pipe: Any, examples: Any, values: flags.FlagValues) -> dict[str, Any]:
    """The bounds of a variational autoencoder on these examples, each [num]; InputError for flags of diffusion."""
    import numpy as np

    from marble.parallel.hosts import is_first

    refuse(values, OF_DIFFUSION, "is for diffusion models, and this is a variational autoencoder")
    num = len(examples) if values.num is None else values.num
    if not 1 <= num <= len(examples):
        raise InputError(f"{num} images asked for: the split has {len(examples)}")
    images = np.stack([examples[i * len(examples) // num]["image"] for i in range(num)])
    return pipe.bits_per_dim(images, values.seed, progress=is_first())


def estimate(bits: Any) -> Any:
    """The mean over images, and its standard error."""
    from marble.pipelines.tally import Estimate, standard_error

    return Estimate(float(bits.mean()), float(standard_error(bits.var(), len(bits))))


def heading(split: str, settings: Mapping[str, Any], more: str = "") -> str:
    """What was measured, and the names of the columns."""
    return (
        f"{split}: {settings['num']} images of {settings['levels']} levels, checkpoint {settings['step']}, "
        f"{settings['params']}, seed {settings['seed']}{more}\n{'':34}  bits/dim   standard error"
    )


def rows_of(estimates: Mapping[str, Any]) -> list[str]:
    """One line an estimate."""
    # Adding 0.0 makes -0.0 plain: a KL of rounding errors is no less than 0.
    return [f"{name:34}  {round(e.mean, 5) + 0.0:8.5f}   {e.standard_error:.5f}" for name, e in estimates.items()]


def table(found: Any, split: str, settings: Mapping[str, Any]) -> str:
    """The terms, one a line, with standard errors over images."""
    variance_type, decoder = settings["variance_type"], settings["decoder"]
    more = f"; {variance_type}, {decoder} decoder" if variance_type else "; continuous time"
    rows = {"L_T": found.prior}
    part = "L_{{t-1}}, t = {}" if variance_type else "L, t in thousandths {}"
    rows |= {part.format(steps): estimate for steps, estimate in reversed(found.parts.items())}
    rows |= {"L_0": found.reconstruction, "sum: the variational bound": found.total}
    if found.flow is not None:
        rows[f"probability flow, {settings['flow']['dequantisation']}"] = found.flow
    return "\n".join([heading(split, settings, more), *rows_of(rows)])


def as_json(found: Any) -> dict[str, Any]:
    """All of it in numbers, lists and dicts."""
    estimates = {"L_T": found.prior, "L_0": found.reconstruction, "bound": found.total, "probability_flow": found.flow}
    return {
        **{name: None if e is None else e._asdict() for name, e in estimates.items()},
        "by_step": {"mean": found.by_step.tolist(), "standard_error": found.by_step_standard_error.tolist()},
        "rate_distortion": {"rate": found.rate.tolist(), "rmse_of_255": found.rmse.tolist()},
    }


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
