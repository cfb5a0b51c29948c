"""What a super-resolution model is told: small images, and how noisy they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks

from marble import builders
from marble.conditioning import LowRes
from marble.conditioning.low_res import KEY, LowResWords, area, noised
from marble.data.examples import ArrayExamples
from marble.errors import InputError
from marble.models import UNet
from marble.models.resample import resized
from marble.typing import ImageSpec

IMAGE = ImageSpec((8, 8, 3), 256)
LOW_RES = LowRes(IMAGE, LowResWords(factor=4, max_aug_level=0.5, aug_level=0.2))
IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 3)).astype(np.float32)
STEP = jax.random.key(1)


def test_small_images_are_the_means_of_squares():
    found = area(IMAGES, 4)
    for i, j in np.ndindex(2, 2):
        square = IMAGES[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        np.testing.assert_allclose(found[:, i, j], square.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_noise_keeps_the_variance():
    """cos² + sin² = 1: of images of N(0, 1) it stays, and at level 1 nothing of the image is left."""
    normal = np.random.default_rng(0).normal(size=(400, 8, 8, 3)).astype(np.float32)
    keys = jax.random.split(STEP, 400)
    found = noised(normal, np.full(400, 0.5, np.float32), keys)
    np.testing.assert_allclose(found.std(), 1, rtol=0.01)
    np.testing.assert_allclose(np.mean(found * normal), np.cos(np.pi / 4), rtol=0.02)
    gone = noised(normal, np.ones(400, np.float32), keys)
    assert abs(np.mean(gone * normal)) < 0.02


def test_in_training_levels_are_each_image_s_own():
    batch = {"image": np.repeat(IMAGES[:1], 4000, axis=0), "index": np.arange(4000)}
    told = LOW_RES.context(batch, STEP, train=True)
    level = np.asarray(told["aug_level"])
    assert level.min() >= 0 and 0.45 < level.max() <= 0.5
    np.testing.assert_allclose(level.mean(), 0.25, atol=0.01)
    part = {name: rows[7:9] for name, rows in batch.items()}
    for name, rows in LOW_RES.context(part, STEP, train=True).items():
        np.testing.assert_allclose(rows, told[name][7:9], rtol=1e-6)
    held_out = LOW_RES.context(batch, None, train=False)
    np.testing.assert_array_equal(held_out["low_res"], area(batch["image"], 4))


def test_what_is_asked_for_is_noised_by_its_index_alone():
    small = np.asarray(area(IMAGES, 4))
    rows = LOW_RES.of_request(5, {"low_res": small}, IMAGE)
    np.testing.assert_allclose(rows["aug_level"], 0.2)
    rows["index"] = np.arange(5, dtype=np.uint32)
    told = LOW_RES.of_rows(rows)
    keys = [jax.random.fold_in(jax.random.key(KEY, impl="threefry2x32"), i) for i in range(5)]
    expected = [noised(small[i][None], jnp.float32([0.2]), keys[i][None])[0] for i in range(5)]
    np.testing.assert_allclose(told["low_res"], expected, rtol=1e-5)
    alone = LOW_RES.of_rows({name: value[3:4] for name, value in rows.items()})
    np.testing.assert_array_equal(alone["low_res"][0], told["low_res"][3])
    exact = LOW_RES.of_rows({**rows, "aug_level": np.zeros(5, np.float32)})
    np.testing.assert_array_equal(exact["low_res"], small)


def test_integers_are_scaled_and_one_image_is_for_all():
    one = np.full((2, 2, 3), 255, np.uint8)
    np.testing.assert_array_equal(LOW_RES.of_request(3, {"low_res": one}, IMAGE)["low_res"], np.ones((3, 2, 2, 3)))


def test_grids_are_of_held_out_images():
    levels = np.round((IMAGES + 1) * 127.5).astype(np.uint8)
    shown = LOW_RES.examples(7, ArrayExamples(levels))["low_res"]
    assert shown.shape == (7, 2, 2, 3)
    np.testing.assert_allclose(shown[:5], area(2 * levels.astype(np.float32) / 255 - 1, 4), atol=1e-5)
    np.testing.assert_array_equal(shown[5:], shown[:2])


def test_the_network_reads_the_small_image_at_its_own_size():
    """As if it were larger channels of x_t; and the level changes what it says."""
    model = UNet(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4, reads_low_res=True)
    context = {"low_res": area(IMAGES, 4), "aug_level": jnp.full(5, 0.3)}
    t = jnp.arange(5)
    params = jax.jit(model.init)(jax.random.key(0), IMAGES, t, context)["params"]
    params = jax.tree.map(lambda x: x + 0.05, params)  # its last layer begins at 0
    apply = jax.jit(lambda context: model.apply({"params": params}, IMAGES, t, context))
    found = apply(context)
    large = {**context, "low_res": resized(context["low_res"], (8, 8))}
    np.testing.assert_allclose(apply(large), found, atol=1e-5)
    assert np.abs(apply({**context, "aug_level": jnp.zeros(5)}) - found).max() > 1e-4
    without = apply({"low_res": context["low_res"]})
    np.testing.assert_allclose(without, apply({**context, "aug_level": jnp.zeros(5)}), atol=1e-5)
    with pytest.raises(InputError, match=r"was given the context \[\]: it reads \['low_res', 'aug_level'\]"):
        model.apply({"params": params}, IMAGES, t)


@pytest.mark.parametrize(
    "request_, message",
    [
        ({}, r"this model makes images larger: give low_res, images \[2 2 2 3\]"),
        ({"low_res": np.zeros((2, 4, 4, 3))}, r"low_res of shape \[2, 4, 4, 3\]: give \[2 2 2 3\] or \[1 2 2 3\]"),
        ({"low_res": np.zeros((2, 2, 2, 3), int)}, "low_res of int64: give uint8, or floats"),
        ({"low_res": np.full((2, 2, 2, 3), 2.0)}, "low_res of float64: give uint8, or floats"),
        ({"low_res": np.zeros((2, 2, 2, 3)), "aug_level": 0.7}, "aug_level=0.7 must be between 0 and low_res.max_aug"),
        ({"low_res": np.zeros((2, 2, 2, 3)), "labels": 1}, "labels=1 given"),
    ],
)
def test_what_can_t_be_asked_for(request_, message):
    with pytest.raises(InputError, match=message):
        LOW_RES.of_request(2, request_, IMAGE)


@pytest.mark.parametrize(
    "model, low_res, message",
    [
        (
            {"reads_low_res": False},
            {},
            "conditioner='low_res' is for models that read it: set model.reads_low_res=True",
        ),
        ({}, {"factor": 3}, "low_res.factor=3 does not divide the images' sides, 8 x 8"),
        ({}, {"factor": 1}, "low_res.factor=1 must be at least 2"),
        ({}, {"aug_level": 0.5}, "low_res.aug_level=0.5 must be between 0 and low_res.max_aug_level=0"),
        ({}, {"max_aug_level": 1.5}, "low_res.max_aug_level=1.5 must be between 0 and 1"),
    ],
)
def test_words_that_can_t_be(model, low_res, message):
    sizes = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 4, "reads_low_res": True}
    config = {
        "seed": 0,
        "data": {"name": "x"},
        "conditioner": "low_res",
        "low_res": low_res,
        "model": {"name": "unet", **sizes, **model},
        "diffusion": {"beta_schedule": "linear", "num_train_timesteps": 10},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {"batch_size": 8, "num_steps": 1, "ema_decay": 0.5},
        "sampling": {},
    }
    with pytest.raises(InputError, match=message):
        builders.build(builders.complete(config), IMAGE)


def test_latents_have_no_small_images(tmp_path):
    """The loss hands conditioners what diffuses: small images are means of pixels."""
    small_networks.write(tmp_path / "vae", small_networks.autoencoder())
    sizes = {"channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "num_groups": 4, "reads_low_res": True}
    config = {
        "seed": 0,
        "data": {"name": "x"},
        "codec": "autoencoder",
        "autoencoder": {"path": str(tmp_path / "vae")},
        "conditioner": "low_res",
        "model": {"name": "unet", **sizes},
        "diffusion": {"beta_schedule": "linear", "num_train_timesteps": 10},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {"batch_size": 8, "num_steps": 1, "ema_decay": 0.5},
        "sampling": {},
    }
    with pytest.raises(InputError, match="conditioner='low_res' is told of pixels: set codec='identity'"):
        builders.build(builders.complete(config), IMAGE)
