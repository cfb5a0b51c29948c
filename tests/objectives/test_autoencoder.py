"""The objective of latent diffusion's autoencoder: its gradients, its two optimisers, and a run of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import metrics
from stepping import stepped

from marble import autoencoding, builders, loading, run
from marble.convert.latents import open_autoencoder
from marble.data.preprocess import example_keys, to_float
from marble.errors import InputError
from marble.features import FeatureNetwork
from marble.objectives.autoencoder import StepCount
from marble.parallel import ParallelConfig
from marble.sampling import noise_like
from marble.typing import ImageSpec

KEY = jax.random.key(3, impl="threefry2x32")
IMAGE = ImageSpec((8, 8, 1), 17)
MODEL = {
    **{"name": "autoencoder_kl", "image_channels": 1, "latent_channels": 2, "channels": 8},
    **{"channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 4},
}
DISCRIMINATOR = {"weight": 0.5, "start_step": 2, "channels": 8, "num_layers": 1, "num_groups": 4}


def config_of(**sections):
    config = {
        "seed": 0,
        "data": {"name": "digits"},
        "model": MODEL,
        "reconstruction": {"pixels": "l1", "kl_weight": 1e-3},
        "discriminator": DISCRIMINATOR,
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {
            **{"batch_size": 16, "num_steps": 4, "ema_decay": 0.5, "log_every": 1, "eval_every": 4},
            **{"sample_every": 4, "checkpoint_every": 2},
        },
    }
    return builders.complete({**config, **sections})


def objective_of(*, perceptual=False, **sections):
    """The objective; a perceptual network of one convolution stands for one that sees things."""
    objective = builders.build(config_of(**sections), IMAGE).objective
    if not perceptual:
        return objective
    words = objective.config.__class__(perceptual_weight=0.3, kl_weight=1e-3)
    seen = dataclasses.replace(objective, config=words)
    vars(seen)["perceptual"] = seeing()  # in the place of what would be opened
    return seen


def seeing():
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 5)).astype(np.float32)

    def trunk(params, images):
        options = dict(window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (jax.lax.conv_general_dilated(images, params, **options),)

    numbers = dict(mean=(127.5,) * 3, std=(127.5,) * 3, size=8, resize="clean_fid", rounding="uint8")
    named = dict(name="toy", distance_name="FD", layers=(), weights_hash="")
    return FeatureNetwork(**named, **numbers, params=kernel, forward=None, trunk=trunk)


def batch_of(size=8):
    image = np.random.default_rng(0).integers(0, 17, (size, *IMAGE.shape)).astype(np.uint8)
    return {"image": to_float(image, 17), "index": jnp.arange(size)}


def written_out(objective, params, batch, step, network):
    """The loss as the paper writes it: every gradient by ``jax.grad`` of the term itself, nothing shared."""
    noise_key, _ = jax.random.split(KEY)
    x, constants = batch["image"], objective.config
    apply = lambda half, tree, inputs: objective.model.apply({"params": tree}, inputs, method=half)  # noqa: E731
    judge = lambda tree, images: objective.discriminator.apply({"params": tree}, images)  # noqa: E731
    others = jax.lax.stop_gradient(params)

    def reconstruction(tree):
        mean, log_variance = apply("encode", tree, x)
        z = mean + jnp.exp(log_variance / 2) * noise_like(example_keys(noise_key, batch), mean)
        images = apply("decode", tree, z)
        kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(axis=(1, 2, 3)).mean() / 64
        seen = 0.0
        if network is not None:
            maps = [objective.perceptual.maps(network, i) for i in (images, x)]
            seen = constants.perceptual_weight * autoencoding.perceptual(*maps).mean()
        return jnp.abs(images - x).mean() + seen, constants.kl_weight * kl, images

    def generator(tree):
        return -judge(others["discriminator"], reconstruction(tree)[2]).mean()

    tree = params["autoencoder"]
    weight = 0.0
    if step >= 2:
        norms = [
            jnp.linalg.norm(jax.grad(term)(others["autoencoder"])["decoder"]["conv_out"]["kernel"])
            for term in (lambda t: reconstruction(t)[0], generator)
        ]
        weight = norms[0] / (norms[1] + 1e-4)
    first, kl, images = reconstruction(tree)
    real, fake = judge(params["discriminator"], x), judge(params["discriminator"], jax.lax.stop_gradient(images))
    own = 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()) if step >= 2 else 0.0
    return first + kl + 0.5 * weight * generator(tree) + own


@pytest.mark.parametrize(
    "step, perceptual",
    [(2, True), *(pytest.param(*words, marks=pytest.mark.slow) for words in ((1, False), (1, True), (2, False)))],
)
def test_the_loss_and_its_gradient_are_the_paper_s(step, perceptual):
    """Before its start step there is no discriminator; from then on it is as if everything were written out."""
    objective = objective_of(perceptual=perceptual)
    params, batch, network = jax.jit(objective.init_params)(jax.random.key(0)), batch_of(), objective.frozen()
    count = StepCount(jnp.int32(step))
    loss_fn = jax.jit(jax.value_and_grad(objective.loss_fn(train=True), has_aux=True))
    (loss, sums), gradient = loss_fn(params, batch, KEY, count, network)
    expected, slope = jax.jit(jax.value_and_grad(lambda p: written_out(objective, p, batch, step, network)))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    of_discriminator = optax.tree.norm(gradient["discriminator"])
    assert (of_discriminator > 0) == (step >= 2)
    assert (sums["adaptive_weight"] > 0) == (step >= 2)


def test_a_held_out_loss_knows_no_discriminator():
    objective = objective_of()
    params, batch = jax.jit(objective.init_params)(jax.random.key(0)), batch_of()
    loss_fn = jax.jit(objective.loss_fn(train=False))
    loss, sums = loss_fn(params, batch, KEY)
    total, number = objective.loss_and_count(sums)
    np.testing.assert_allclose(loss, total / number, rtol=1e-6)
    expected = jax.jit(lambda p: written_out(objective, p, batch, 0, None))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    masked = {**batch, "mask": jnp.arange(8) < 5}
    found, number = objective.loss_and_count(loss_fn(params, masked, KEY)[1])
    five = {name: value[:5] for name, value in batch.items()}
    np.testing.assert_allclose(found / number, loss_fn(params, five, KEY)[0], rtol=1e-5)


@pytest.mark.slow
def test_the_discriminator_is_weighed_over_the_whole_batch():
    """One device, eight, and eight by pmap make the same steps, though the weight is no mean of the images' own."""
    experiment = builders.build(config_of(), IMAGE)
    image = np.random.default_rng(0).integers(0, 17, (16, *IMAGE.shape)).astype(np.uint8)
    made = dict(batch={"image": image, "index": np.arange(16, dtype=np.int32)}, key=KEY, steps=3)
    one = stepped(experiment, ParallelConfig().open(jax.devices()[:1]), **made)
    assert one.loss_history.step == 3
    for mapping in (ParallelConfig().open(), ParallelConfig(mapping="pmap").open()):
        other = stepped(experiment, mapping, **made)
        for ours, theirs in zip(jax.tree.leaves(one.window), jax.tree.leaves(other.window), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3)
        for ours, theirs in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=3e-4)  # Adam's first steps are of the gradients' signs


def test_each_network_has_its_own_optimiser():
    """However large the discriminator's gradient is, the autoencoder's clip makes the same of its own."""
    experiment = builders.build(config_of(), IMAGE)
    params = jax.jit(experiment.init_params)()
    ones = jax.tree.map(jnp.ones_like, params)
    large = {**ones, "discriminator": jax.tree.map(lambda x: 1e6 * x, ones["discriminator"])}
    state = experiment.optimizer.init(params)
    # In the second moments of Adam the size of a clipped gradient is seen; in its first update it is not.
    update = jax.jit(experiment.optimizer.update)
    after = [update(g, state, params)[1].inner_states["autoencoder"] for g in (ones, large)]
    for one, other in zip(*map(jax.tree.leaves, after), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("autoencoder")
    run.run(config_of(), str(folder))
    return folder


def test_the_log_says_how_near_reconstructions_are(workdir):
    lines = metrics(workdir)
    assert {"loss", "pixels", "kl", "generator", "discriminator", "adaptive_weight"} <= set(lines[0])
    assert lines[0]["discriminator"] == lines[1]["discriminator"] == 0 < lines[2]["discriminator"]
    held_out = next(line for line in lines if "heldout_psnr" in line)
    assert 0 < held_out["heldout_psnr"] < 30 and held_out["heldout_loss"] > 0
    assert (workdir / "samples" / "0000004.png").exists()


def test_it_encodes_and_decodes(workdir):
    pipe = loading.load(str(workdir))
    images = np.random.default_rng(0).integers(0, 17, (5, *IMAGE.shape)).astype(np.uint8)
    mean, log_variance = pipe.encode(images)
    assert mean.shape == log_variance.shape == (5, 4, 4, 2)
    np.testing.assert_array_equal(pipe.decode(mean), pipe.reconstruct(images))
    assert pipe.reconstruct(images).dtype == np.uint8
    with pytest.raises(InputError, match="3 images asked of an autoencoder, which draws none: train a diffusion"):
        pipe.sample(3)
    with pytest.raises(InputError, match=r"latents of shape \[5, 4, 4, 1\]: this model takes \[n 4 4 2\]"):
        pipe.decode(mean[..., :1])
    with pytest.raises(InputError, match="a latent is nan"):
        pipe.decode(mean * np.nan)


def test_what_it_leaves_is_the_codec_of_another_run(workdir):
    """Its scale makes what diffuses of size 1, and its images are those of the run's own pipeline."""
    folder = str(workdir / "vae")
    _, params, scale = open_autoencoder(folder)
    pipe = loading.load(str(workdir))
    source = builders.data_config(config_of()).open()
    images = np.stack([source.read("train")[i]["image"] for i in range(0, 1437, 3)])
    mean, log_variance = pipe.encode(images)
    drawn = mean + np.exp(log_variance / 2) * np.random.default_rng(0).normal(size=mean.shape)
    np.testing.assert_allclose(scale, 1 / drawn.std(), rtol=0.05)
    for ours, theirs in zip(jax.tree.leaves(pipe.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    latent = {
        "codec": "autoencoder",
        "autoencoder": {"path": folder},
        "model": {"name": "unet", "channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "num_groups": 4},
        "diffusion": {"beta_schedule": "linear", "num_train_timesteps": 10},
    }
    kept = {key: config_of().to_dict()[key] for key in ("seed", "data", "optimizer", "training")}
    codec = builders.build(builders.complete({**kept, **latent, "sampling": {}}), IMAGE).objective.codec
    assert codec.scale == scale and codec.spec.shape == (4, 4, 2)


def test_a_perceptual_part_is_of_what_the_network_sees():
    """It is 0 of equal images, and grey ones are seen as three equal channels."""
    objective = objective_of(perceptual=True)
    x = batch_of()["image"]
    np.testing.assert_allclose(objective._seen(x, x, objective.frozen())[1], 0, atol=1e-6)
    (grey,), (three,) = (
        objective.perceptual.maps(objective.frozen(), images) for images in (x, jnp.repeat(x, 3, axis=-1))
    )
    np.testing.assert_array_equal(grey, three)


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"model": {**MODEL, "image_channels": 3}}, "model.image_channels=3, and the images have 1: set that"),
        ({"reconstruction": {"kl_weight": -1.0}}, "reconstruction.kl_weight=-1.0 must be 0, for without, or above"),
        ({"discriminator": {**DISCRIMINATOR, "weight": -0.5}}, "discriminator.weight=-0.5 must be at least 0"),
        ({"discriminator": {**DISCRIMINATOR, "start": 3}}, "unknown config key discriminator.start=3; did you mean"),
        ({"diffusion": {}}, "the config section diffusion is not read with model.name='autoencoder_kl': remove it"),
        (
            {"reconstruction": {"perceptual_weight": 1.0, "perceptual_network": "clip:nowhere"}},
            "nowhere",
        ),
    ],
)
def test_words_that_can_t_be(sections, message):
    with pytest.raises(InputError, match=message):
        builders.build(config_of(**sections), IMAGE).objective.check()


def test_it_draws_nothing_that_could_be_measured(tmp_path):
    config = config_of(evaluation={"every": 4})
    with pytest.raises(InputError, match="evaluation.every=4 measures samples, and this objective draws none: set it"):
        run.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_without_a_discriminator_there_is_one_network():
    objective = objective_of(discriminator={})
    assert objective.discriminator is None and objective.loss_history() is None
    assert list(jax.jit(objective.init_params)(jax.random.key(0))) == ["autoencoder"]
    assert "discriminator" not in objective.log({name: 1.0 for name in objective.sums()})
