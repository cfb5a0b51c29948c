"""The objective of latent diffusion's autoencoder: images small, and back (Rombach et al. 2022, appendix G).

    pixels + perceptual_weight * perceptual + kl_weight * KL + weight * adaptive_weight * generator_loss

each a mean over the image's numbers; beside it the discriminator's own loss, by its own optimiser. KL is that of the
latents to N(0, I), divided by the image's numbers too. Every term but the first can be off, by a weight of 0.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from marble import autoencoding, vae
from marble.convert import autoencoder_kl
from marble.convert.folder import write_part
from marble.data.examples import Examples, evenly
from marble.data.preprocess import example_keys
from marble.data.sources import TRAIN, Source
from marble.errors import InputError
from marble.features import FeatureNetwork, open_features
from marble.models import AutoencoderKL, PatchDiscriminator
from marble.objectives.objective import Given, Plain, refuse_guides
from marble.parallel import WHOLE, Across, DeviceMapping, agreement, fetch
from marble.pipelines import AutoencoderPipeline
from marble.sampling import noise_like
from marble.schema import DTYPES, Reading, Section
from marble.storage import replaced_folder
from marble.training.state import no_sum
from marble.training.step import LossFn
from marble.typing import Array, Batch, ImageSpec

LAST = ("decoder", "conv_out", "kernel")
"""The decoder's last kernel, by whose gradients the discriminator is weighed."""
MOST_JUDGED, MOST_MEASURED = 512, 10_000
"""Images that the log's PSNR, and the scale of the latents, are of at most."""
FOLDER = "vae"
"""Where in its workdir a run leaves the autoencoder, with its scale, as diffusers has it."""
OF_DISCRIMINATOR = ("generator", "discriminator", "adaptive_weight")
PARTS = ("pixels", "perceptual", "kl", *OF_DISCRIMINATOR)


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """The section ``reconstruction`` of a config, beside ``pixels``."""

    kl_weight: float = 1e-6
    perceptual_weight: float = 0.0
    """1 is latent diffusion's."""
    perceptual_network: str = "effnet"
    """What sees the images, as ``marble evaluate --features`` takes it: effnet or effnet:PATH."""

    def __post_init__(self) -> None:
        for name in ("kl_weight", "perceptual_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"reconstruction.{name}={getattr(self, name)} must be 0, for without, or above")


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """The section ``discriminator`` of a config, beside its sizes and its loss."""

    weight: float = 0.0
    """0 trains none; 0.5 is latent diffusion's."""
    start_step: int = 0
    """From which on it is trained, and the autoencoder against it."""

    def __post_init__(self) -> None:
        for name in ("weight", "start_step"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"discriminator.{name}={getattr(self, name)} must be at least 0")


class StepCount(NamedTuple):
    """How many steps have been made: what says whether the discriminator has begun."""

    step: Array

    def updated(self) -> Self:
        """One more."""
        return StepCount(self.step + 1)


@dataclasses.dataclass(frozen=True)
class LatentAutoencoder(Plain):
    """An autoencoder's, with the discriminator that it is trained against."""

    model: AutoencoderKL
    image: ImageSpec
    pixels: Callable[[Array, Array], Array]
    config: ReconstructionConfig
    discriminator: PatchDiscriminator | None
    adversarial: AdversarialConfig
    discriminator_loss: Callable[[Array, Array], Array]
    batch_size: int

    draws = False
    keys = ()
    sections: ClassVar[Mapping[str, Section]] = {
        "model": Section({"name": {"autoencoder_kl": AutoencoderKL}, "dtype": DTYPES}, ("name",)),
        "reconstruction": Section({"pixels": autoencoding.PIXEL_LOSSES}, (ReconstructionConfig,), is_optional=True),
        "discriminator": Section(
            {"loss": autoencoding.DISCRIMINATOR_LOSSES}, (AdversarialConfig, PatchDiscriminator), is_optional=True
        ),
        "sampling": Section(is_optional=True),
    }

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "LatentAutoencoder":
        """The objective of a config."""
        config, adversarial = (
            reading.make("reconstruction", ReconstructionConfig),
            reading.make("discriminator", AdversarialConfig),
        )
        dtype, channels = reading.named("model", "dtype"), given.image.shape[-1]
        model = reading.make("model", "name", dtype=dtype)
        if model.image_channels != channels:
            raise InputError(f"model.image_channels={model.image_channels}, and the images have {channels}: set that")
        return cls(
            model=model,
            image=given.image,
            pixels=reading.named("reconstruction", "pixels"),
            config=config,
            discriminator=reading.make("discriminator", PatchDiscriminator, dtype=dtype)
            if adversarial.weight
            else None,
            adversarial=adversarial,
            discriminator_loss=reading.named("discriminator", "loss"),
            batch_size=given.training.batch_size,
        )

    @functools.cached_property
    def perceptual(self) -> FeatureNetwork | None:
        """The network that sees images, opened when something is trained; InputError where it is not to be had."""
        return _open_perceptual(self.config)

    def check(self) -> None:
        """InputError where there is no perceptual network and the loss has a part for it."""
        _ = self.perceptual

    def init_params(self, key: Array) -> Any:
        """The initial parameters of both networks."""
        image = jnp.zeros((1, *self.image.shape), jnp.float32)
        params = {"autoencoder": self.model.init(key, image)["params"]}
        if self.discriminator is not None:
            params["discriminator"] = self.discriminator.init(jax.random.fold_in(key, 1), image)["params"]
        return params

    def optimizer(self, made: optax.GradientTransformation) -> optax.GradientTransformation:
        """One for each network: the discriminator's gradients clip nobody else's."""
        names = ("autoencoder",) if self.discriminator is None else ("autoencoder", "discriminator")
        return optax.partition(dict.fromkeys(names, made), lambda params: {name: name for name in params})

    def loss_history(self) -> StepCount | None:
        """The step, where a discriminator begins at one."""
        return None if self.discriminator is None else StepCount(jnp.zeros((), jnp.int32))

    def frozen(self, base: Any = None) -> Any:
        """The perceptual network's parameters."""
        return None if self.perceptual is None else self.perceptual.params

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss; of held-out images it is without the discriminator's part."""

        def loss_fn(params: Any, batch: Batch, key: Array, count: StepCount | None = None, frozen: Any = None) -> Any:
            noise_key, dropout_key = jax.random.split(key)
            rngs = {"dropout": jax.random.fold_in(dropout_key, batch["index"][0])}
            x = batch["image"]

            def apply(tree: Any, half: str, inputs: Array) -> Any:
                return self.model.apply({"params": tree}, inputs, train=train, rngs=rngs, method=half)

            encoding = vae.Encoding(*apply(params["autoencoder"], "encode", x))
            z = vae.decoder_input(encoding, noise_like(example_keys(noise_key, batch), encoding.mean))
            kl = vae.prior_kl(jax.tree.map(lambda a: a.reshape(len(a), -1), encoding)) / math.prod(self.image.shape)
            decoded = apply(params["autoencoder"], "decode", z)
            terms = dict.fromkeys(PARTS, jnp.zeros(len(x), jnp.float32))
            terms["pixels"], terms["perceptual"] = self._seen(decoded, x, frozen)
            terms["kl"] = kl
            losses = terms["pixels"] + self.config.perceptual_weight * terms["perceptual"] + self.config.kl_weight * kl
            loss = losses.mean()
            if count is not None:
                by_kernel = functools.partial(self._by_kernel, apply, params["autoencoder"], z)
                added, found = jax.lax.cond(  # until it begins nothing of it is computed
                    count.step >= self.adversarial.start_step,
                    lambda: self._adversarial(params, decoded, x, frozen, by_kernel, across),
                    lambda: (jnp.float32(0), dict.fromkeys(OF_DISCRIMINATOR, jnp.zeros(len(x), jnp.float32))),
                )
                loss, terms = loss + added, {**terms, **found}
            mask = batch.get("mask", jnp.ones(len(x), jnp.float32))
            sums = {name: term @ mask for name, term in terms.items()} | {"count": mask.sum()}
            return loss, sums | ({} if count is None else {"draws": {}})

        return loss_fn

    def _seen(self, decoded: Array, x: Array, network: Any) -> tuple[Array, Array]:
        """How far decoded images are from theirs [b], by pixels and by the perceptual network."""
        pixels = self.pixels(decoded, x)
        if self.perceptual is None:
            return pixels, jnp.zeros_like(pixels)
        # Both in one call, so that the network's program is there once.
        maps = self.perceptual.maps(network, jnp.concatenate([decoded, x]))
        halves = [jnp.split(layer, 2) for layer in maps]
        return pixels, autoencoding.perceptual(*zip(*halves, strict=True))

    def _by_kernel(self, apply: Callable[..., Array], params: Any, z: Array) -> Callable[[Array], Array]:
        """A function from gradients by the decoded images to gradients by the decoder's last kernel."""
        module, layer, name = LAST

        def decoded(kernel: Array) -> Array:
            replaced = {**params[module], layer: {**params[module][layer], name: kernel}}
            return apply({**params, module: replaced}, "decode", z)

        _, pull = jax.vjp(decoded, params[module][layer][name])
        return lambda gradient: pull(gradient)[0]

    def _adversarial(
        self,
        params: Any,
        decoded: Array,
        x: Array,
        network: Any,
        by_kernel: Callable[[], Callable[[Array], Array]],
        across: Across,
    ) -> tuple[Array, dict[str, Array]]:
        """What the discriminator adds to the loss, the generator's part and its own, and the terms [b] of the log."""
        judge = lambda tree, images: self.discriminator.apply({"params": tree}, images)  # noqa: E731
        tree, frozen_tree = params["discriminator"], jax.lax.stop_gradient(params["discriminator"])
        seen = jax.lax.stop_gradient(decoded)

        def reconstruction(images: Array) -> Array:
            pixels, perceptual = self._seen(images, x, network)
            return (pixels + self.config.perceptual_weight * perceptual).mean()

        def generator(images: Array) -> Array:
            return autoencoding.generator_loss(judge(frozen_tree, images)).mean()

        pull = by_kernel()
        of_both = [across.mean(pull(jax.grad(loss)(seen))) for loss in (reconstruction, generator)]
        weight = autoencoding.adaptive_weight(*of_both)
        of_generator = autoencoding.generator_loss(judge(frozen_tree, decoded))
        of_discriminator = self.discriminator_loss(judge(tree, x), judge(tree, seen))
        added = self.adversarial.weight * weight * of_generator.mean() + of_discriminator.mean()
        found = of_generator, of_discriminator, jnp.broadcast_to(weight, len(x))
        return added, dict(zip(OF_DISCRIMINATOR, found, strict=True))

    def sums(self) -> Mapping[str, Array]:
        """The metrics of the loss over nothing."""
        return {name: no_sum() for name in (*PARTS, "count")}

    def log(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The parts that there are, each without its weight."""
        named = ["pixels", "kl"]
        named += ["perceptual"] if self.config.perceptual_weight else []
        named += OF_DISCRIMINATOR if self.discriminator else []
        return {name: float(sums[name] / sums["count"]) for name in named}

    def loss_and_count(self, sums: Mapping[str, Any]) -> tuple[Any, Any]:
        """The sum over the images of such sums of the loss without the discriminator, and their number."""
        perceptual, kl = self.config.perceptual_weight * sums["perceptual"], self.config.kl_weight * sums["kl"]
        return sums["pixels"] + perceptual + kl, sums["count"]

    def pipeline(
        self, params: Any, *, mapping: DeviceMapping, guide: Any = None, classifier: Any = None
    ) -> AutoencoderPipeline:
        """The autoencoder with these parameters."""
        refuse_guides("an autoencoder", guide, classifier)
        params = None if params is None else params["autoencoder"]
        options = dict(image=self.image, batch_size=self.batch_size, mapping=mapping)
        return AutoencoderPipeline(model=self.model, params=params, **options)

    def grid(
        self, pipe: AutoencoderPipeline, params: Any, held_out: Examples | None, *, num: int, seed: int
    ) -> np.ndarray | None:
        """Held-out images, each beside its reconstruction; None without any."""
        if held_out is None:
            return None
        images = evenly(held_out, num // 2)
        found = pipe.reconstruct(images, params=params["autoencoder"])
        return np.stack([pipe.shown(images), found], axis=1).reshape(-1, *self.image.shape)

    def judged(self, pipe: AutoencoderPipeline, params: Any, held_out: Examples) -> Mapping[str, float]:
        """PSNR and SSIM of reconstructions."""
        return pipe.fidelity(evenly(held_out, MOST_JUDGED), params=params["autoencoder"])

    def publish(self, folder: Path, pipe: AutoencoderPipeline, params: Any, source: Source) -> None:
        """Leaves the autoencoder in the workdir's folder ``vae``, its scale measured on training images."""
        scale = pipe.scale(evenly(source.read(TRAIN), MOST_MEASURED), params=params["autoencoder"])
        config = autoencoder_kl.config_of(self.model, scale=scale, sample_size=self.image.shape[0])
        found = fetch(params["autoencoder"])
        if agreement.is_first():
            with replaced_folder(folder / FOLDER) as made:
                write_part(made, config, autoencoder_kl.table(self.model), found)


def _open_perceptual(config: ReconstructionConfig) -> FeatureNetwork | None:
    """The network that sees images, where the loss has a part for it."""
    if not config.perceptual_weight:
        return None
    network = open_features(config.perceptual_network)
    if network.trunk is None:
        raise InputError(
            f"reconstruction.perceptual_network={config.perceptual_network!r} has no layers of places to compare: take "
            "effnet or effnet:PATH"
        )
    return network
