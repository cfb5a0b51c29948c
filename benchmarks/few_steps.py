"""How few steps a sampler needs: generated digits told from training digits by the nearest neighbour.

    python benchmarks/few_steps.py --workdir runs/digits

Prints, for each sampler, spacing and number of steps, how often 800 generated and 800 training digits are told from
each other (0.5: not at all), the mean over five draws of the training digits; of one draw the standard error is 0.0125.
"""

import argparse
import dataclasses
import itertools

import numpy as np

import marble
from marble.data.sources import open_source
from marble.metrics import nearest_neighbour_accuracy
from marble.pipelines.image_files import stretched

NUM = 800
SAMPLERS = ("ddim", "dpm_solver_2m", "dpm_solver_3m", "dpm_solver_sde", "unipc", "heun")
SPACINGS = ("linspace", "trailing", "karras", "log_snr")
STEPS = (5, 10, 20, 50)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    workdir = parser.parse_args().workdir
    digits = open_source("digits")
    examples = digits.read("train")
    real = stretched(np.stack([examples[i]["image"] for i in range(len(examples))]), digits.levels)
    subsets = [real[np.random.default_rng(seed).permutation(len(real))[:NUM]] for seed in range(5)]

    def accuracy(pipe, steps) -> float:
        images = pipe.sample(NUM, seed=0, steps=steps, batch_size=200)
        return np.mean([nearest_neighbour_accuracy(images, subset) for subset in subsets])

    print(f"| sampler | spacing | {' | '.join(f'{steps} steps' for steps in STEPS)} |")
    print(f"|---|---|{'---|' * len(STEPS)}")
    for name, spacing in itertools.product(SAMPLERS, SPACINGS):
        pipe = marble.load(workdir, sampler=name)
        pipe.config = dataclasses.replace(pipe.config, timestep_spacing=spacing)
        row = " | ".join(f"{accuracy(pipe, steps):.3f}" for steps in STEPS)
        print(f"| `{name}` | {spacing} | {row} |", flush=True)
    print(f"\n`ancestral`, every step: {accuracy(marble.load(workdir, sampler='ancestral'), None):.3f}")


if __name__ == "__main__":
    main()
