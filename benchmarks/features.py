"""How many images a second a network of features takes, from 8-bit images of 32 pixels on the host to rows there.

    python benchmarks/features.py effnet:PATH [--num 512] [--batch-size 64] [--side 32]
    python benchmarks/features.py inception

A name of ``marble.features.open_features``; of inception alone the weights are random, which is as fast. Compiling is
timed apart. The last line also tells the most memory that the process has had.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from marble.convert import inception
from marble.convert.names import tensors_of
from marble.features import FeatureNetwork, Featurizer, open_features
from marble.models import Inception
from marble.parallel import ParallelConfig


def main() -> None:
    """Prints two lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features")
    for name, default in {"num": 512, "batch-size": 64, "side": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    network = random_inception() if options.features == "inception" else open_features(options.features)
    featurizer = Featurizer(network, ParallelConfig().open(), ("features",), options.batch_size)
    shape = (options.num, options.side, options.side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    start = time.perf_counter()
    featurizer(images[: featurizer.size])
    print(f"{network.name}: the first call, with compiling, took {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    featurizer(images)
    seconds = time.perf_counter() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{devices}: {options.num / seconds:.1f} images/s, batches of {featurizer.size}, {most:.1f} GiB at most")


def random_inception() -> FeatureNetwork:
    """Of numbers that neither die nor grow."""
    model, rng = Inception(), np.random.default_rng(0)
    draw = lambda leaf: (0.01 * rng.normal(size=leaf.shape) + (leaf.ndim == 1)).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, inception.shapes_of(model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.npz"
        np.savez(path, **dict(tensors_of(inception.table(model), params)))
        return open_features(f"inception:{path}")


if __name__ == "__main__":
    main()
