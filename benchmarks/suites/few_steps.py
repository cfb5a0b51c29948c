"""How few steps a sampler needs: generated digits told from training digits by the nearest neighbour.

    python -m benchmarks --suite few_steps --workdir runs/digits

Prints, for each sampler, spacing and number of steps, how often 800 generated and 800 training digits are told from
each other (0.5: not at all), the mean over five draws of the training digits; of one draw the standard error is 0.0125.
"""

import argparse
import dataclasses
import itertools

from benchmarks.report import Report

REPORTS, IN_CHILDREN, PEERS = True, False, ()
NUM = 800
SAMPLERS = ("ddim", "dpm_solver_2m", "dpm_solver_3m", "dpm_solver_sde", "unipc", "heun")
SPACINGS = ("linspace", "trailing", "karras", "log_snr")
STEPS = (5, 10, 20, 50)


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--workdir", required=True, help="of a run of configs/digits.py")
    parser.add_argument("--smoke", action="store_true", help="a sampler, a spacing, 16 images")


def run(options: argparse.Namespace, report: Report) -> int:
    """A row for each sampler and spacing."""
    import numpy as np

    import marble
    from marble.data.sources import open_source
    from marble.metrics import nearest_neighbour_accuracy
    from marble.pipelines.image_files import stretched

    smoke = options.smoke
    num, steps, draws = (16, (2,), 1) if smoke else (NUM, STEPS, 5)
    digits = open_source("digits")
    examples = digits.read("train")
    real = stretched(np.stack([examples[i]["image"] for i in range(len(examples))]), digits.levels)
    subsets = [real[np.random.default_rng(seed).permutation(len(real))[:num]] for seed in range(draws)]

    def accuracy(pipe: marble.pipelines.DiffusionPipeline, steps: int | None) -> float:
        images = pipe.sample(num, seed=0, steps=steps, batch_size=min(num, 200))
        return float(np.mean([nearest_neighbour_accuracy(images, subset) for subset in subsets]))

    for name, spacing in itertools.product(SAMPLERS[: 1 if smoke else None], SPACINGS[: 1 if smoke else None]):
        pipe = marble.load(options.workdir, sampler=name)
        pipe.config = dataclasses.replace(pipe.config, timestep_spacing=spacing)
        found = {f"{count}_steps": accuracy(pipe, count) for count in steps}
        report.row("Accuracy of the nearest neighbour", sampler=name, spacing=spacing, **found)
    if not smoke:
        every = accuracy(marble.load(options.workdir, sampler="ancestral"), None)
        report.row("Every step", sampler="ancestral", accuracy=every)
    return 0
