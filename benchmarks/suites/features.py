"""How many images a second a network of features takes, from 8-bit images of 32 pixels on the host to rows there.

    python -m benchmarks --suite features --features effnet:PATH [--num 512] [--batch_size 64] [--side 32]
    python -m benchmarks --suite features --features inception

A name of ``marble.features.open_features``; of inception alone the weights are random, which is as fast. Compiling is
timed apart; the last column is the most memory that the process has had.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Report

REPORTS, IN_CHILDREN, PEERS = True, False, ()


def define(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--features", default="inception")
    for name, default in {"num": 512, "batch_size": 64, "side": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--smoke", action="store_true", help="two images")


def run(options: argparse.Namespace, report: Report) -> int:
    """One row."""
    import numpy as np

    from marble.features import Featurizer, open_features
    from marble.parallel import ParallelConfig

    num, batch_size = (2, 1) if options.smoke else (options.num, options.batch_size)
    network = random_inception() if options.features == "inception" else open_features(options.features)
    featurizer = Featurizer(network, ParallelConfig().open(), ("features",), batch_size)
    images = np.random.default_rng(0).integers(0, 256, (num, options.side, options.side, 3), dtype=np.uint8)
    start = time.perf_counter()
    featurizer(images[: featurizer.size])
    first = time.perf_counter() - start
    start = time.perf_counter()
    featurizer(images)
    report.row(
        "A network of features",
        network=network.name,
        side=options.side,
        batch=featurizer.size,
        first_call_seconds=first,
        images_per_second=num / (time.perf_counter() - start),
        most_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    )
    return 0


def random_inception() -> Any:
    """Of numbers that neither die nor grow."""
    import jax
    import numpy as np

    from marble.convert import inception
    from marble.convert.names import tensors_of
    from marble.features import open_features
    from marble.models import Inception

    model, rng = Inception(), np.random.default_rng(0)
    draw = lambda leaf: (0.01 * rng.normal(size=leaf.shape) + (leaf.ndim == 1)).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, inception.shapes_of(model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.npz"
        np.savez(path, **dict(tensors_of(inception.table(model), params)))
        return open_features(f"inception:{path}")
