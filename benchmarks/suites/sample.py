"""A whole chain of the same network, batch, sampler and steps, from noise to images on the host: ours and the peers'.

    python -m benchmarks --suite sample [--network digits|cifar10] [--sampler ancestral|ddim|dpm_solver_2m]
        [--steps 1000] [--dtype float32 bfloat16] [--way eager compile] [--batch B] [--rounds N]

Ours is DiffusionPipeline.sample, diffusers' its DDPMPipeline or DDIMPipeline with that sampler's scheduler, eager and
with the network under torch.compile, and denoising-diffusion-pytorch's GaussianDiffusion.sample. Weights are random,
which takes as long. Operations are those of the network at each step, of our compiled forward pass.
"""

import argparse
import functools
from typing import Any

from benchmarks.report import Report
from benchmarks.suites import train

REPORTS, IN_CHILDREN = True, False
PEERS = ("diffusers", "lucidrains")
BAR = 0.5
"""Of the best of diffusers' ways: 1000 ancestral steps of the digits network in float32 on a CPU, batch 64."""


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    networks, samplers = ("digits", "cifar10"), ("ancestral", "ddim", "dpm_solver_2m")
    parser.add_argument("--network", choices=networks, default="digits")
    parser.add_argument("--sampler", choices=samplers, default="ancestral")
    parser.add_argument("--steps", type=int, help="default 1000 of ancestral, else 50")
    train.define_shared(parser)


def run(options: argparse.Namespace, report: Report) -> int:
    """Measures each precision."""
    from benchmarks import peers
    from benchmarks.measure import Bar, tell_best

    known = peers.opened(options.peer, report.note)
    if options.smoke:
        options.way = ["eager"]
    options.steps = options.steps or (3 if options.smoke else 1000 if options.sampler == "ancestral" else 50)
    bars = []
    for dtype in options.dtype or (["float32"] if report.is_on_a_cpu else ["float32", "bfloat16"]):
        peak = train.tell_peak(report, dtype, options.smoke)
        setting, turns = measured(report, options, known, dtype, peak)
        is_it = (options.network, options.sampler, options.steps) == ("digits", "ancestral", 1000)
        if is_it and train.is_barred(options, report, dtype):
            bars.append((setting, turns))
    for setting, turns in bars:
        tell_best(report, setting, turns, Bar("diffusers", BAR))
    return 0


def measured(
    report: Report, options: argparse.Namespace, known: dict[str, Any], dtype: str, peak: float
) -> tuple[dict[str, Any], Any]:
    """One comparison: its setting and its times."""
    from benchmarks import ours
    from benchmarks.measure import OURS, Contender, compare

    network, smoke, steps, sampler = options.network, options.smoke, options.steps, options.sampler
    batch = options.batch or (2 if smoke else 8 if network == "cifar10" and report.is_on_a_cpu else 64)
    built = ours.experiment(dtype, batch, smoke, network, dropout=0.0)
    size, parameters = ours.NETWORKS[network].shape[0], ours.count(built)
    pipe = ours.pipeline(dtype, batch, smoke, network, dropout=0.0)
    compiled = pipe.lower(pipe.mapping.shapes_of(pipe.params), batch_size=batch).compile()
    once = ours.forward(dtype, batch, smoke, network, dropout=0.0).flops
    call = functools.partial(pipe.sample, batch, steps=steps, sampler=sampler, batch_size=batch)
    contenders = [Contender(OURS, call, parameters, compiled)]
    for name, peer in known.items():
        if sampler not in peer.SAMPLERS:
            report.note(f"{name} is left out: it has no {sampler}")
            continue
        model, ways = built.objective.model, tuple(options.way)
        contenders += peer.sampling(model, batch, size, parameters, dtype, sampler, steps, ways)
    setting = dict(what=sampler, steps=steps, network=network, dtype=dtype, batch=batch)
    turns = compare(
        report,
        setting,
        contenders,
        images=batch,
        rounds=options.rounds or (2 if smoke else 3),
        flops=once and steps * once,
        peak=peak,
        before=0,  # a call is as many as its steps
    )
    return setting, turns
