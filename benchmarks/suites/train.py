"""A training step and a forward pass of the same network, batch and precision: ours and the peers', in turns.

    python -m benchmarks --suite train [--network cifar10 digits] [--what train forward] [--dtype float32 bfloat16]
        [--way eager compile] [--batch B] [--rounds N]

cifar10    the network of Ho et al. 2020, 35,746,307 parameters, batch 8 on a CPU, else 128
digits     that of configs/digits.py, 367,129 parameters, batch 64

Ours is the compiled step of marble train: draws of t and noise, flips, the loss, the gradient, clip by global norm,
Adam, moving average, checks, sums for the log; dropout is off. diffusers' does what its scripts do in a step, the
average included, in eager mode and under torch.compile. In each turn a side is called twice, of which the second
counts.
"""

import argparse
import functools
from typing import Any

from benchmarks.report import Report

REPORTS, IN_CHILDREN = True, False
PEERS = ("diffusers", "lucidrains")
ROUNDS = {("cifar10", "train"): 7, ("cifar10", "forward"): 11, ("digits", "train"): 25, ("digits", "forward"): 25}
BARS = {("cifar10", "train"): 1.0, ("cifar10", "forward"): 0.9, ("digits", "train"): 0.7}
"""Of the best of diffusers' ways, in float32 on a CPU, at the default batch."""


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    networks, kinds = ("cifar10", "digits"), ("train", "forward")
    parser.add_argument("--network", nargs="+", choices=networks, default=networks)
    parser.add_argument("--what", nargs="+", choices=kinds, default=kinds)
    define_shared(parser)


def define_shared(parser: argparse.ArgumentParser) -> None:
    """Those that the suite sample has too."""
    precisions, ways = ("float32", "bfloat16"), ("eager", "compile")
    told = "default: float32 on a CPU, else both"
    parser.add_argument("--dtype", nargs="+", choices=precisions, help=told)
    parser.add_argument("--way", nargs="+", choices=ways, default=ways, help="how PyTorch runs (default: both)")
    parser.add_argument("--batch", type=int, help="images of a call")
    parser.add_argument("--rounds", type=int, help="that are counted")
    parser.add_argument("--smoke", action="store_true", help="tiny, once, PyTorch in eager mode")


def run(options: argparse.Namespace, report: Report) -> int:
    """Measures each."""
    from benchmarks import peers
    from benchmarks.measure import Bar, tell_best

    known, bars = peers.opened(options.peer, report.note), []
    if options.smoke:
        options.way = ["eager"]
    for dtype in options.dtype or (["float32"] if report.is_on_a_cpu else ["float32", "bfloat16"]):
        peak = tell_peak(report, dtype, options.smoke)
        for network in options.network:
            for kind in options.what:
                setting, turns = measured(report, options, known, network, kind, dtype, peak)
                bar = BARS.get((network, kind))
                if bar and is_barred(options, report, dtype):
                    bars.append((setting, turns, Bar("diffusers", bar)))
    for setting, turns, bar in bars:
        tell_best(report, setting, turns, bar)
    return 0


def is_barred(options: argparse.Namespace, report: Report, dtype: str) -> bool:
    """Whether this is what the bars are for."""
    return report.is_on_a_cpu and dtype == "float32" and not options.smoke and options.batch is None


def tell_peak(report: Report, dtype: str, smoke: bool) -> float:
    """Measures and tells what the machine's products of matrices reach, in FLOP/s."""
    from benchmarks.peaks import default_size, matrix_peak

    size = default_size(smoke)
    peak = matrix_peak(dtype, size)
    report.row("Matrix peak, measured", dtype=dtype, size=size, gflops=peak / 1e9)
    return peak


def measured(
    report: Report,
    options: argparse.Namespace,
    known: dict[str, Any],
    network: str,
    kind: str,
    dtype: str,
    peak: float,
) -> tuple[dict[str, Any], Any]:
    """One comparison: its setting and its times."""
    from benchmarks import ours
    from benchmarks.measure import compare

    default = 64 if network == "digits" else 8 if report.is_on_a_cpu else 128
    batch = options.batch or (2 if options.smoke else default)
    built = ours.experiment(dtype, batch, options.smoke, network, dropout=0.0)
    size, parameters = ours.NETWORKS[network].shape[0], ours.count(built)
    mine, flops = our_side(kind, dtype, batch, options.smoke, network, parameters)
    contenders = [mine]
    for peer in known.values():
        model, ways = built.objective.model, tuple(options.way)
        contenders += peer.contenders(kind, model, batch, size, parameters, dtype, ways)
    setting = dict(what=kind, network=network, dtype=dtype, batch=batch)
    rounds = options.rounds or (2 if options.smoke else ROUNDS[network, kind])
    return setting, compare(report, setting, contenders, images=batch, rounds=rounds, flops=flops, peak=peak)


def our_side(kind: str, dtype: str, batch: int, smoke: bool, network: str, parameters: int) -> tuple[Any, float | None]:
    """Our contender, and the operations of a call as XLA counts them in its program."""
    import jax

    from benchmarks import flops, ours
    from benchmarks.measure import OURS, Contender

    if kind == "forward":
        found = ours.forward(dtype, batch, smoke, network, dropout=0.0)
        return Contender(OURS, found.call, parameters, found.compiled), found.flops
    trained = ours.training(dtype, batch, 1, smoke, network, dropout=0.0)
    call = functools.partial(waited, trained.call)
    if jax.default_backend() != "gpu":
        return Contender(OURS, call, parameters, trained.compiled), flops.of_program(trained.compiled)
    of_an_image = ours.flops_of_an_image(smoke, network)
    return Contender(OURS, call, parameters, trained.compiled), of_an_image and batch * of_an_image


def waited(call: Any) -> Any:
    """Its result when it is there."""
    import jax

    return jax.block_until_ready(call())
