"""The objective of a plain upsampler: a network's one answer to a small image (Dong et al. 2014; Saharia et al. 2021).

    x^ = up(z) + f(up(z)),   |x^ - x| or (x^ - x)²

z is the mean over each factor x factor pixels of x, and up the bicubic interpolation: what is learnt is what that
leaves out. It draws nothing: where several large images fit a small one it gives their median, or their mean, which are
smooth; a diffusion model with conditioner='low_res' draws one of them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from marble import autoencoding
from marble.conditioning.low_res import area, check_factor
from marble.data.examples import Examples, evenly
from marble.data.preprocess import to_float, to_uint8
from marble.errors import InputError
from marble.metrics.pixels import psnr
from marble.models import UNet
from marble.objectives.objective import Given, Plain, refuse_guides
from marble.parallel import WHOLE, Across, DeviceMapping
from marble.pipelines.upsampler import UpsamplerPipeline, bicubic, enlarged
from marble.schema import DTYPES, Reading, Section
from marble.training.state import no_sum
from marble.training.step import LossFn
from marble.typing import Array, Batch, ImageSpec

MOST_JUDGED = 512
"""Held-out images that the log's PSNR is of at most."""


@dataclasses.dataclass(frozen=True)
class UpsamplerWords:
    """The section ``upsampler`` of a config."""

    factor: int = 4
    """How much smaller the sides of the small image are."""


@dataclasses.dataclass(frozen=True)
class Upsampler(Plain):
    """A plain upsampler's."""

    model: UNet
    image: ImageSpec
    words: UpsamplerWords
    pixels: Callable[[Array, Array], Array]
    batch_size: int

    draws = False
    keys = ()
    sections: ClassVar[Mapping[str, Section]] = {
        "model": Section({"name": {"unet": UNet}, "dtype": DTYPES}, ("name",)),
        "upsampler": Section({"pixels": autoencoding.PIXEL_LOSSES}, (UpsamplerWords,), is_optional=True),
        "sampling": Section(is_optional=True),
    }

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "Upsampler":
        """The objective of a config."""
        words = reading.make("upsampler", UpsamplerWords)
        check_factor("upsampler.factor", words.factor, given.image)
        sizes = dict(dtype=reading.named("model", "dtype"), out_channels=given.image.shape[-1])
        model = reading.make("model", "name", **sizes)
        for name in ("num_classes", "reads_low_res"):
            if getattr(model, name):
                raise InputError(f"model.{name}={getattr(model, name)}: a plain upsampler is told nothing; drop it")
        return cls(model, given.image, words, reading.named("upsampler", "pixels"), given.training.batch_size)

    def init_params(self, key: Array) -> Any:
        """The initial parameters: at first it interpolates."""
        return self.model.init(key, jnp.zeros((1, *self.image.shape), jnp.float32), jnp.zeros(1, jnp.int32))["params"]

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss, in training with dropout."""
        del across

        def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
            x, rngs = batch["image"], {"dropout": jax.random.fold_in(key, batch["index"][0])}
            small = area(x, self.words.factor)
            found = enlarged(self.model, params, small, x.shape[1:3], train=train, rngs=rngs)
            losses = self.pixels(found, x)
            mask = batch.get("mask", jnp.ones(len(x), jnp.float32))
            return losses.mean(), {"pixels": losses @ mask, "count": mask.sum()}

        return loss_fn

    def sums(self) -> Mapping[str, Array]:
        """The metrics of the loss over nothing."""
        return {name: no_sum() for name in ("pixels", "count")}

    def log(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}

    def loss_and_count(self, sums: Mapping[str, Any]) -> tuple[Any, Any]:
        """The sum of the loss over the images of such sums, and their number."""
        return sums["pixels"], sums["count"]

    def pipeline(
        self, params: Any, *, mapping: DeviceMapping, guide: Any = None, classifier: Any = None
    ) -> UpsamplerPipeline:
        """The network with these parameters."""
        refuse_guides("a plain upsampler", guide, classifier)
        options = dict(factor=self.words.factor, image=self.image, batch_size=self.batch_size, mapping=mapping)
        return UpsamplerPipeline(model=self.model, params=params, **options)

    def grid(
        self, pipe: UpsamplerPipeline, params: Any, held_out: Examples | None, *, num: int, seed: int
    ) -> np.ndarray | None:
        """Held-out images: each as interpolation has it, as the network has it, and as it is; None without any."""
        if held_out is None:
            return None
        found = self._ways(pipe, params, evenly(held_out, num // 3))
        return np.stack(list(found.values()), axis=1).reshape(-1, *self.image.shape)

    def judged(self, pipe: UpsamplerPipeline, params: Any, held_out: Examples) -> Mapping[str, float]:
        """PSNR, and that of bicubic interpolation."""
        found = self._ways(pipe, params, evenly(held_out, MOST_JUDGED))
        original = found.pop("original")
        return {f"psnr{name}": float(psnr(images, original).mean()) for name, images in found.items()}

    def _ways(self, pipe: UpsamplerPipeline, params: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        """The images as uint8, by interpolation, by the network, and as they are."""
        x = to_float(images, self.image.levels)
        small = area(x, self.words.factor)
        shown = lambda images: np.asarray(to_uint8(images, self.image.levels))  # noqa: E731
        return {
            "_bicubic": shown(bicubic(small, x.shape[1:3])),
            "": pipe.sample(len(x), low_res=np.asarray(small), params=params),
            "original": shown(x),
        }
