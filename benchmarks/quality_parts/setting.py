"""What both sides are given: the images, the network, how long they train, and how their samples are judged."""

import dataclasses
from typing import Any

import jax

from marble import builders
from marble.config import load_config
from marble.experiments import Experiment
from marble.typing import ImageSpec

TINY = {
    "model": dict(channels=16, num_res_blocks=1, num_groups=4, attention_resolutions=(8,)),
    "training": dict(batch_size=64),
}
"""What a CPU trains in minutes, in place of 35.7 million parameters."""
WARMUP, WARMUP_SHARE = 500, 0.1
"""Steps over which the learning rate of both sides rises: those of diffusers' script, or that share of a short run."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A comparison; its experiment is what ``marble train`` builds."""

    config: Any
    source: Any
    experiment: Experiment
    num_steps: int
    points: int
    """How often the training is looked at, at equal distances."""

    @property
    def batch_size(self) -> int:
        """Images in a step."""
        return self.experiment.training.batch_size

    @property
    def every(self) -> int:
        """Steps from one point to the next."""
        return self.num_steps // self.points

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises."""
        return warmup_of(self.num_steps)


def warmup_of(num_steps: int) -> int:
    """Of a run of that many steps."""
    return max(1, min(WARMUP, int(WARMUP_SHARE * num_steps)))


def setting(images: int, points: int, *, tiny: bool, data: dict[str, Any]) -> Setting:
    """configs/cifar10.py for so many images seen, with a warm-up that fits; in bfloat16 on an accelerator."""
    config = builders.complete(load_config("cifar10"))
    for section, values in (TINY if tiny else {}).items():
        config[section].update(values)
    config.data.update(data)
    every = max(1, images // config.training.batch_size // points)
    config.training.update(num_steps=points * every, log_every=every, checkpoint_every=every, keep_checkpoints=points)
    config.training.update(eval_every=0, sample_every=0)
    config.optimizer.warmup_steps = warmup_of(points * every)
    config.model.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    source = builders.data_config(config).open()
    experiment = builders.build(config, ImageSpec(tuple(source.image_shape), source.levels))
    return Setting(config, source, experiment, points * every, points)
