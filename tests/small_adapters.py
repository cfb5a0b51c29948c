"""The workdir of a run that trained adapters, without the training."""

import jax
import small_networks

from marble import builders, loading, workdir
from marble.checkpoint import CheckpointWriter

STEP = 3
RANK, ALPHA = 2, 6.0


def write(folder, base):
    """The workdir of adapters of the pipeline in the folder base; what they are."""
    config, data = loading.recalled(str(base))
    config = builders.complete({**config, "init_from": str(base), "lora": {"rank": RANK, "alpha": ALPHA}})
    workdir.remember(str(folder), config.to_dict(), data)
    experiment = builders.build(config, data.image, class_names=data.class_names)
    adapters = small_networks.random_params(jax.eval_shape(experiment.init_params))
    with CheckpointWriter(str(folder)) as writer:
        writer.save(STEP, {"ema_params": adapters})
    return adapters
