"""Time per step with more devices or processes and as much work for each: what mapping and communication cost.

    python -m benchmarks --suite scaling [--config digits] [--per_device 16] [--steps 40] [--counts 1 2 4 8]

On virtual CPU devices and on processes of one machine the cores are shared, so that more devices can't be faster: what
would be perfect there are as many images a second as one device computes. On as many GPUs or TPUs as are counted it is
the same time per step. Each line is a program of its own, the fastest of three runs of so many steps.
"""

import argparse
import os
import socket
import subprocess
import sys
import time

from benchmarks.machine import ROOT
from benchmarks.report import Report

REPORTS, IN_CHILDREN, PEERS = True, True, ()
MAPPINGS = {
    "mesh": [],
    "mesh, fsdp": ["--config.parallel.sharding=fsdp"],
    "pmap": ["--config.parallel.mapping=pmap"],
}


def measure(arguments: argparse.Namespace) -> float:
    """Seconds a step, in this process."""
    import jax
    import numpy as np

    from marble import builders
    from marble import run as training
    from marble.cli.train import configured
    from marble.data.loader import train_batches
    from marble.parallel import hosts
    from marble.pipelines import ImageSpec
    from marble.training.step import several_steps

    hosts.start()
    count = arguments.counts[0]
    mapping_words = MAPPINGS[arguments.mapping]
    config = configured(
        arguments.config, [f"--config.training.batch_size={count * arguments.per_device}", *mapping_words]
    )
    source = builders.data_config(config).open()
    experiment = builders.build(config, ImageSpec(tuple(source.image_shape), source.levels))
    mapping = experiment.parallel.open(jax.devices()[:count])
    training.check(experiment, source, mapping)
    host = train_batches(
        source.read("train"),
        batch_size=experiment.training.batch_size,
        seed=0,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    batch = mapping.put_part({k: np.asarray(v)[None] for k, v in next(host).items()}, batch_axis=1)
    state, key = mapping.init(experiment.init_state), jax.random.key(0, impl="threefry2x32")
    step = mapping.compile_step(
        several_steps(training.make_train_step_of(experiment, mapping), mapping.scan), state, batch, key
    )
    best = float("inf")
    state, metrics = step(state, batch, key)
    jax.block_until_ready(metrics)
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(arguments.steps):
            state, metrics = step(state, batch, key)
        jax.block_until_ready(state)
        best = min(best, (time.perf_counter() - began) / arguments.steps)
    return best


def measured(arguments: argparse.Namespace, mapping: str, count: int, processes: int) -> float:
    """Seconds a step of a program of its own, or of so many processes that are one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--part", "--mapping", mapping, "--counts", str(count), "--config", arguments.config]
    words += ["--per_device", str(arguments.per_device), "--steps", str(arguments.steps)]
    started = []
    for i in range(processes):
        environment = dict(os.environ)
        if processes > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
            environment["JAX_PROCESS_ID"] = str(i)
        if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
            environment["JAX_NUM_CPU_DEVICES"] = str(count // processes)
        command = [sys.executable, "-m", "benchmarks.suites.scaling", *words]
        started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    return max(float(process.communicate()[0].split()[-1]) for process in started)


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--config", default="digits")
    parser.add_argument("--per_device", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--smoke", action="store_true", help="digits:smoke, one device and two, two steps")


def run(options: argparse.Namespace, report: Report) -> int:
    """A row for each mapping and count."""
    if options.smoke:
        options.config, options.per_device, options.steps, options.counts = "digits:smoke", 2, 2, [1, 2]
    cases = [(name, n, 1) for name in MAPPINGS for n in options.counts if n > 1 or name == "mesh"]
    cases += [("mesh", n, n) for n in options.counts if n > 1]
    alone = None
    for mapping, count, processes in cases[: 2 if options.smoke else None]:
        seconds = measured(options, mapping, count, processes)
        rate = count * options.per_device / seconds
        alone = alone or rate
        report.row(
            f"{options.config}, {options.per_device} images a device",
            mapping=mapping,
            devices=count,
            processes=processes,
            ms=1000 * seconds,
            images_per_second=rate,
            share_of_one_device=rate / alone,
        )
    return 0


def part() -> None:
    """One line of it, in this process."""
    parser = argparse.ArgumentParser()
    define(parser)
    parser.add_argument("--mapping", default="mesh")
    parser.add_argument("--part", action="store_true")
    print(measure(parser.parse_args()))


if __name__ == "__main__":
    part()
