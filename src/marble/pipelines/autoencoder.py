"""A trained autoencoder of latent diffusion in use: latents of images, images of latents, and what is lost between."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from marble.conditioning import Autoencoder
from marble.data.preprocess import to_float, to_uint8
from marble.errors import InputError
from marble.metrics.pixels import WINDOW, psnr, ssim
from marble.parallel import DeviceMapping, ParallelConfig
from marble.pipelines.copies import Copyable
from marble.pipelines.rows import integer_images, over_batches
from marble.typing import Array, ImageSpec


class Latents(NamedTuple):
    """q(z | image) = N(mean, diag(exp(log_variance))) of each image, both [n h w c]; not scaled."""

    mean: np.ndarray
    log_variance: np.ndarray


class AutoencoderPipeline(Copyable):
    """An ``AutoencoderKL`` with its parameters: encode, decode, reconstruct.

    Images that go in are integers at the data's levels, 0..levels-1, [n h w c], as data sets give them; images that
    come out are uint8 0..255. Batches are split over all devices. params in a call replace the pipeline's own.
    """

    def __init__(
        self, *, model: nn.Module, params: Any, image: ImageSpec, batch_size: int, mapping: DeviceMapping | None = None
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self.mapping = mapping or ParallelConfig().open()
        self.codec = Autoencoder(None, model, image).resized(*image.shape[:2])
        self.params = self.mapping.place(params)
        compiled = self.mapping.compile_rows
        self._encode_batch = compiled(self._encode)
        self._decode_batch = compiled(lambda params, batch: self.codec.replace(params=params).decode(batch["z"]))

    @property
    def image(self) -> ImageSpec:
        """Of the images."""
        return self.codec.image

    def encode(self, images: np.ndarray, *, params: Any = None, progress: bool = False) -> Latents:
        """What images are encoded to."""
        return self._over(self._encode_batch, {"image": integer_images(images, self.image)}, params, progress)

    def decode(self, z: np.ndarray, *, params: Any = None, progress: bool = False) -> np.ndarray:
        """The images [n h w c] uint8 of latents z [n h' w' c'], as ``encode`` has them: not scaled."""
        z = np.asarray(z, np.float32)
        if z.shape[1:] != self.codec.spec.shape or not len(z):
            shape = " ".join(map(str, self.codec.spec.shape))
            raise InputError(f"latents of shape {list(z.shape)}: this model takes [n {shape}]")
        if not np.isfinite(z).all():
            raise InputError(f"a latent is {z[~np.isfinite(z)][0]}: give finite numbers")
        return np.asarray(to_uint8(self._over(self._decode_batch, {"z": z}, params, progress), self.image.levels))

    def reconstruct(self, images: np.ndarray, *, params: Any = None, progress: bool = False) -> np.ndarray:
        """decode(encode(images).mean)."""
        return self.decode(self.encode(images, params=params).mean, params=params, progress=progress)

    def fidelity(self, images: np.ndarray, *, params: Any = None) -> dict[str, float]:
        """The means of ``psnr``, in dB, and ``ssim``, of images as large as its window, over reconstructions."""
        found, originals = self.reconstruct(images, params=params), self.shown(images)
        metrics = {"psnr": psnr} | ({"ssim": ssim} if min(self.image.shape[:2]) >= WINDOW else {})
        return {name: float(metric(found, originals).mean()) for name, metric in metrics.items()}

    def scale(self, images: np.ndarray, *, params: Any = None) -> float:
        """1 / std of all numbers of the latents, drawn as in training: what makes what diffuses of size 1.

        (Rombach et al. 2022, appendix G.) The variance is that of the means and the mean of the variances.
        """
        mean, log_variance = self.encode(images, params=params)
        deviation = math.sqrt(np.var(mean, dtype=np.float64) + np.exp(log_variance.astype(np.float64)).mean())
        if not (math.isfinite(deviation) and deviation > 0):
            raise InputError(f"the latents have a standard deviation of {deviation}: the autoencoder says nothing")
        return 1 / deviation

    def shown(self, images: np.ndarray) -> np.ndarray:
        """The images as uint8 0..255."""
        return np.asarray(to_uint8(to_float(images, self.image.levels), self.image.levels))

    def sample(self, num: int, **request: Any) -> np.ndarray:
        """InputError: an autoencoder gives back what it is given."""
        raise InputError(
            f"{num} images asked of an autoencoder, which draws none: train a diffusion model with codec='autoencoder' "
            "and autoencoder.path set to this run's folder vae, and ask that"
        )

    def _encode(self, params: Any, batch: dict[str, Array]) -> Latents:
        images = to_float(batch["image"], self.image.levels)
        return Latents(*self.model.apply({"params": params}, images, method="encode"))

    def _over(self, function: Any, rows: dict[str, np.ndarray], params: Any, progress: bool) -> Any:
        params = self.params if params is None else params
        options = dict(batch_size=self.batch_size, mapping=self.mapping, progress=progress)
        return over_batches(function, params, rows, **options)
