"""marble evaluate: measures a trained model, or images of any origin.

  marble evaluate --workdir runs/digits --metrics bpd --split test --num 360
  marble evaluate --workdir runs/cifar10 --metrics fd,kid,pr,memorization --num 10000 --report report.html
  marble evaluate --workdir runs/cifar10 --metrics fd,is --features inception:pt_inception-2015-12-05-6726825d.pth
  marble evaluate --images samples --reference cifar10:train --metrics fd --out metrics.json

Of samples, or of --images (a folder, an npz, NAME[:SPLIT] of a data set), judged by --reference (the same kinds, or an
npz of statistics; by default the train split of the model's data):

  fd, fd_infinity    Frechet distance: FID by the network of that paper, FD-EffNetLite0 and so on by others
  sfd, is            sFID, and the Inception score
  kid, cmmd          kernel distances; cmmd is of CLIP's embeddings
  pr                 precision, recall, density, coverage
  clip               CLIP score of images and their texts
  memorization       copies of the reference, and duplicates, in pixels and in features
  psnr, ssim         of image i with image i of the reference

Of a model, bpd: how many bits a dimension it needs for an image of --split: L_T, L_{t-1} by tenths of the steps, L_0
and their sum, the variational bound, with standard errors over images; and beside it the likelihood under the
probability flow. Of a variational autoencoder: the reconstruction, KL(q(z | x) || p(z)), their sum, and the
importance-weighted bound.

All is written to metrics.json of the workdir, or --out, each number with what it was measured with; numbers of other
protocols are warned of. Two numbers compare where their protocols are the same: --compare_with OTHER/metrics.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from marble.cli import drawing, prompts
from marble.cli.flags import check_writable, parse, refuse
from marble.errors import InputError

METRICS = ("bpd", "fd", "fd_infinity", "sfd", "is", "kid", "cmmd", "pr", "clip", "memorization", "psnr", "ssim")
OF_FLOW = ("ode_steps", "ode_divergence", "ode_dequantisation")
OF_BITS = {
    "batch_size": ("batch_size",),
    "variance_type": ("variance_type",),
    "decoder": ("decoder",),
    "flow": ("ode", *OF_FLOW),
}
"""The flags of each option of bits a dimension."""
ONLY_OF_BITS = ("split", "variance_type", "decoder", "ode", *OF_FLOW)
OF_SAMPLES = (*drawing.SAMPLING, "label", "text", "negative_text")
OF_MODEL = (*drawing.PARAMETERS, *drawing.GUIDES)
OF_JUDGING = ("reference", "reference_num", "features", "resize", "rounding", "image_size", "intervals", "compare_with")


def define(values: flags.FlagValues) -> None:
    """The flags of marble evaluate."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run, or a published checkpoint.", **text)
    flags.DEFINE_string("images", None, "Images in place of a model's: folder, npz or data set.", **text)
    flags.DEFINE_string("reference", None, "What they are judged by (default: the data of the run).", **text)
    flags.DEFINE_list(
        "metrics", None, f"What to measure, of {', '.join(METRICS)} (default: bpd, of images fd).", **text
    )
    flags.DEFINE_list("features", ["effnet"], "effnet, inception:PATH, clip:PATH, dinov2:PATH; several too.", **text)
    flags.DEFINE_integer("num", None, "How many images; of samples by default 10000, else all.", **text)
    flags.DEFINE_integer("reference_num", None, "How many of the reference (default: all).", **text)
    flags.DEFINE_integer("image_size", None, "Cut and resize images and reference to this many pixels.", **text)
    flags.DEFINE_string("resize", None, "Kernel to a network's size (default: the one of its scores).", **text)
    flags.DEFINE_string("rounding", None, "uint8 or float: whether samples are rounded first.", **text)
    flags.DEFINE_bool("intervals", True, "Also compute intervals.", **text)
    flags.DEFINE_string("out", None, "File for the numbers (default: metrics.json of the workdir).", **text)
    flags.DEFINE_string("report", None, "HTML file with numbers, images, neighbours and curves.", **text)
    flags.DEFINE_string("save_statistics", None, "npz for the reference's means and covariances.", **text)
    flags.DEFINE_string("compare_with", None, "Another metrics.json to set the numbers beside.", **text)
    flags.DEFINE_string("split", None, "Of bpd: split of the data set (default: the held-out one).", **text)
    flags.DEFINE_integer("seed", 0, "Seed of all noise; image i's depends on the seed and i alone.", **text)
    flags.DEFINE_integer("batch_size", None, "Images in one call (default: the config's for sampling).", **text)
    flags.DEFINE_string("label", None, "One class for all samples (default: classes at random).", **text)
    prompts.define_texts(values)
    drawing.define(values)
    flags.DEFINE_string("variance_type", None, "Variance of reverse steps (default: the sampler's or model's).", **text)
    flags.DEFINE_string("decoder", None, "exact (default), or tanh: the DDPM reference's approximation.", **text)
    flags.DEFINE_bool("ode", True, "Also compute the likelihood under the probability flow.", **text)
    flags.DEFINE_integer("ode_steps", 100, "Steps of the flow, each of four calls of the network.", **text)
    flags.DEFINE_string("ode_divergence", "hutchinson", "hutchinson, or exact: one derivative a dimension.", **text)
    flags.DEFINE_string("ode_dequantisation", "variational", "variational, or uniform within the bins.", **text)


def main(argv: list[str]) -> int:
    """Evaluates, and returns the exit status."""
    values = parse("evaluate", __doc__, argv, define)
    metrics = check(values)
    prompts.read(values)
    from marble.parallel import agreement, hosts, use_compilation_cache

    use_compilation_cache()
    command = " ".join(["marble evaluate", *argv])
    with hosts.joined(command=" ".join(argv)):
        evaluation = measured(values, metrics, command)
        if agreement.is_first():
            print("\n".join(evaluation.lines()))
    return 0


def check(values: flags.FlagValues) -> list[str]:
    """The metrics that are asked for; InputError for unknown ones, and for flags that would do nothing."""
    metrics = (["bpd"] if values.images is None else ["fd"]) if values.metrics is None else values.metrics
    for name in metrics or [""]:
        if name not in METRICS:
            from marble.schema import nearest

            raise InputError(f"--metrics {name!r} is unknown{nearest(name, METRICS)}")
    if values.workdir is None and values.images is None:
        raise InputError("--workdir is missing: give the folder of a training run, or --images")
    if not values.ode:
        refuse(values, OF_FLOW, "is for the probability flow, which --noode leaves out")
    if "bpd" not in metrics:
        refuse(values, ONLY_OF_BITS, "is for --metrics bpd")
    if set(metrics) == {"bpd"}:
        of_images = (*OF_JUDGING, *OF_SAMPLES, *drawing.GUIDES, "save_statistics")
        refuse(values, of_images, "is for metrics of images, and bpd is of a model")
    for flag in ("out", "report", "save_statistics"):
        if values[flag].value is not None:
            path = Path(values[flag].value)
            check_writable(flag, str(path.parent), [path.name])
    if values.images is not None:
        refuse(values, (*OF_MODEL, *OF_SAMPLES, "seed"), "is for --workdir, and not for --images")
    if values.lora is None:
        refuse(values, ("lora_scale",), "is for --lora")
    if set(metrics) <= {"is", "clip", "bpd"}:
        refuse(values, ("reference", "reference_num", "save_statistics"), "is for metrics that compare with others")
    if set(metrics) <= {"psnr", "ssim", "bpd"}:
        refuse(values, ("features", "resize"), "is for metrics of networks")
    return metrics


def measured(values: flags.FlagValues, metrics: list[str], command: str) -> Any:
    """The evaluation, in all processes."""
    from marble import evaluation
    from marble.pipelines import Flow

    flow = Flow(values.ode_steps, values.ode_divergence, values.ode_dequantisation) if values.ode else None
    bits = evaluation.BitsOptions(values.split, values.variance_type, values.decoder, flow)
    sampling = {name: values[name].value for name in ("label", "text", "negative_text")}
    size = {} if values.batch_size is None else {"batch_size": values.batch_size}
    return evaluation.evaluate(
        values.workdir,
        images=values.images,
        reference=values.reference,
        options=evaluation.EvaluationOptions(
            metrics=metrics,
            features=values.features,
            resize=values.resize,
            rounding=values.rounding,
            intervals=values.intervals,
            **size,
        ),
        num=values.num,
        reference_num=values.reference_num,
        image_size=values.image_size,
        model=evaluation.ModelOptions(**drawing.of_model(values)),
        sampling=evaluation.SampleOptions(
            seed=values.seed, batch_size=values.batch_size, **sampling, **drawing.of_sampling(values)
        ),
        bits=bits,
        write=evaluation.Written(values.out, values.report, values.save_statistics),
        compare_with=values.compare_with,
        command=command,
        given=given_bits(values),
        progress=_is_first(),
    )


def given_bits(values: flags.FlagValues) -> Mapping[str, str]:
    """The options of bits a dimension that were given, and the flag that gave them."""
    given = {option: [name for name in names if values[name].present] for option, names in OF_BITS.items()}
    return {option: f"--{names[0]}" for option, names in given.items() if names}


def _is_first() -> bool:
    from marble.parallel import agreement

    return agreement.is_first()
