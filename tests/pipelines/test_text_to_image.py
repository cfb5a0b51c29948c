"""Text-to-image from a folder that marble wrote: image i depends on its prompt and index alone, by one program."""

import copy
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
import small_pipelines

from marble.data.preprocess import to_uint8
from marble.errors import InputError
from marble.loading import images_at_once, load_params
from marble.objectives.samplers import SAMPLERS
from marble.parallel import ParallelConfig
from marble.pipelines.evaluate import bits_per_dim
from marble.pipelines.lossless import LosslessCompressor
from marble.sampling import image_keys, sample
from marble.typing import ImageSpec

PROMPTS = ["a cat on a mat", "two dogs in the snow", "8784 hours", "crème brûlée", ""]
NEGATIVE = ["snow", "", "a photo"]
STEPS = 6


def in_turn(texts, num, first=0):
    return [texts[i % len(texts)] for i in range(first, first + num)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_pipelines.stable_diffusion(tmp_path_factory.mktemp("small") / "sd")


@pytest.fixture(scope="module")
def pipe(folder):
    return small_pipelines.opened(folder)


def drawn(pipe, num=3, **options):
    """Floats of the prompts in turn."""
    asked = dict(steps=STEPS, text=in_turn(PROMPTS, num, options.get("first", 0)))
    return pipe.sample(num, as_float=True, **asked | options)


def assert_alike(a, b):
    """Equal up to rounding, which batches of other sizes and devices change; see sampling/test_invariance.py."""
    np.testing.assert_allclose(a, b, atol=5e-3)
    apart = np.abs(np.asarray(to_uint8(a, 256), int) - np.asarray(to_uint8(b, 256), int))
    assert (apart > 1).mean() <= 1e-3


def traced(pipe, monkeypatch):
    """A list that grows when the network is traced, as for every program that has it."""
    traces, apply = [], pipe.apply
    monkeypatch.setattr(pipe, "apply", lambda *inputs: traces.append(inputs) or apply(*inputs))
    return traces


def test_image_i_depends_on_its_prompt_and_index_alone(pipe):
    many = drawn(pipe, 19, seed=3, negative_text=in_turn(NEGATIVE, 19))
    assert many.shape == (19, 16, 16, 3) and np.isfinite(many).all() and many.std() > 0.2
    some = drawn(pipe, 4, seed=3, first=9, negative_text=in_turn(NEGATIVE, 4, 9))
    np.testing.assert_array_equal(some, many[9:13])
    alone = pipe.sample(1, seed=3, first=11, steps=STEPS, text=PROMPTS[1], negative_text=NEGATIVE[2], as_float=True)
    np.testing.assert_array_equal(alone[0], many[11])
    other = pipe.sample(1, seed=3, first=11, steps=STEPS, text=PROMPTS[0], negative_text=NEGATIVE[2], as_float=True)
    assert np.abs(other[0] - many[11]).max() > 0.02
    assert np.abs(drawn(pipe, 19, seed=4, negative_text=in_turn(NEGATIVE, 19)) - many).mean() > 0.1


@pytest.mark.parametrize("size", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_on_one_device_and_in_batches_of_other_sizes(folder, pipe, size):
    alone = small_pipelines.opened(folder, mapping=ParallelConfig().open(jax.devices()[:1]))
    assert_alike(drawn(alone, 3, batch_size=size), drawn(pipe, 3))


def test_one_program_for_all_prompts_steps_and_scales(pipe, monkeypatch):
    drawn(pipe)
    traces = traced(pipe, monkeypatch)
    for options in (
        {"text": "mat " * 5},
        {"negative_text": "photo"},
        {"text": None},
        {"steps": 9},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0, "guidance_rescale": 0.5, "guidance_interval": (0.1, 5.0)},
        {"seed": 8, "first": 3},
    ):
        drawn(pipe, 11 if "text" in options else 3, **options)
    assert traces == []


def test_the_scale_1_is_the_model_told_of_the_text_and_0_that_of_the_negative_one(pipe):
    plain = drawn(pipe, guidance_scale=1.0)
    np.testing.assert_array_equal(drawn(pipe, guidance_scale=1.0, negative_text="snow"), plain)

    @jax.jit
    def by_hand(rows):
        return sample(
            pipe.denoise_fn(pipe.params),
            pipe.sampler,
            pipe.grid(STEPS, sampler=pipe.sampler),
            image_keys(0, rows["index"]),
            pipe.codec.spec.shape,
            context=pipe.conditioner.of_rows(rows),
            num_steps=STEPS,
        )

    x_0 = by_hand(pipe.rows(3, seed=0, request={"text": PROMPTS[:3]}))
    assert_alike(np.clip(pipe.decode(np.asarray(x_0)), -1, 1), plain)
    from_negative = drawn(pipe, guidance_scale=0.0, negative_text=PROMPTS[:3], text="a photo")
    np.testing.assert_allclose(from_negative, plain, atol=1e-4)
    assert np.abs(drawn(pipe) - plain).max() > 0.05  # the config's scale, 7.5


def test_no_text_is_the_empty_one(pipe):
    empty = pipe.sample(2, steps=STEPS, text="")
    np.testing.assert_array_equal(pipe.sample(2, steps=STEPS), empty)
    np.testing.assert_array_equal(pipe.sample(2, steps=STEPS, text=["", ""], negative_text=""), empty)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "unipc")) for n in SAMPLERS])
def test_every_sampler_makes_images(pipe, name):
    made = drawn(pipe, 2, sampler=name, steps=3)
    assert np.isfinite(made).all() and made.std() > 0.1
    assert np.abs(made[0] - made[1]).max() > 0.1


@pytest.mark.slow
def test_another_size(pipe):
    wide = drawn(pipe, 2, height=12, width=24)
    assert wide.shape == (2, 12, 24, 3) and np.isfinite(wide).all()


NOISE = np.zeros((2, 8, 8, 4), np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 1}, "labels=1 given, but this model was trained without labels .it reads text, negative_text."),
        ({"negative": "a"}, "negative='a' is no option; did you mean negative_text"),
        ({"text": ["a"]}, "1 texts as text for 2 images: give one for all or one an image"),
        ({"text": "a", "negative_text": ["a"] * 3}, "3 texts as negative_text for 2 images"),
        ({"text": [None, "a"]}, r"text=\[None, 'a'\] must be a text, or a list of texts"),
        ({"text": 5}, "text=5 must be a text, or a list of texts"),
        ({"text": b"a"}, "text=b'a' must be a text, or a list of texts"),
        ({"text": "a\ud800"}, "has half a character"),
        ({"guidance_scale": 7.5}, "guidance_scale=7.5 needs a text to go towards"),
        ({"text": "a", "noise": NOISE[:1]}, r"noise of shape \[1, 8, 8, 4\]: give one of \[2, 8, 8, 4\]"),
        ({"text": "a", "noise": NOISE, "height": 24}, r"give one of \[2, 12, 8, 4\]"),
        ({"text": "a", "height": 15}, "images of 15 x 16: the autoencoder takes multiples of 2"),
        ({"text": "a", "width": 18}, "images of 16 x 18: give a height and width that are multiples of 4"),
        ({"text": "a", "width": 0}, "images of 16 x 0 asked for: give a height and width of at least 1"),
        ({"text": "a", "height": "16"}, "size='16' must be a whole number"),
        ({"text": "a", "steps": 1001}, "1001 sampling steps: give between 1 and 1000"),
        ({"text": "a", "sampler": "dimm"}, "sampling.sampler='dimm' is unknown; did you mean 'ddim'"),
    ],
)
def test_what_can_not_be_is_refused(pipe, options, message):
    with pytest.raises(InputError, match=message):
        pipe.sample(2, **options)


def test_latents_have_no_bits(pipe):
    with pytest.raises(InputError, match="bits a dimension are of models of pixels"):
        bits_per_dim(pipe, None)
    with pytest.raises(InputError, match="lossless files are of models of pixels"):
        LosslessCompressor(pipe)


def test_a_prompt_that_is_too_long_is_told_of(pipe, caplog):
    text = "a photo of a cat and " + " ".join(["dogs"] * 12)
    with caplog.at_level(logging.WARNING):
        long = pipe.sample(2, steps=STEPS, text=text)
    assert caplog.text.count("are read: dropped") == 1 and "12 are read" in caplog.text
    kept = pipe.conditioner.encoders[0].tokens([text])[0]
    assert kept[-1] == pipe.conditioner.encoders[0].tokenizer.end and len(kept) == small_networks.MAX_LENGTH
    np.testing.assert_array_equal(pipe.sample(2, steps=STEPS, text=text + " dogs"), long)


@pytest.mark.slow
def test_bfloat16_is_near_float32(folder, pipe):
    half = small_pipelines.opened(folder, dtype="bfloat16")
    held = (half.params, half.codec, half.conditioner)
    assert {leaf.dtype for leaf in jax.tree.leaves(held)} == {jnp.dtype("bfloat16")}
    plain, rounded = drawn(pipe, guidance_scale=2.0), drawn(half, guidance_scale=2.0)
    assert rounded.dtype == np.float32
    assert np.sqrt(np.square(rounded - plain).mean()) < 0.05 * plain.std()


@pytest.mark.slow
def test_parameters_split_over_devices(folder, pipe):
    split = small_pipelines.opened(folder, mapping=ParallelConfig(sharding="fsdp", fsdp_min_size=64).open())
    placed = jax.tree.leaves(split.all_params())
    assert sum(leaf.sharding.is_fully_replicated for leaf in placed) < 0.7 * len(placed)
    assert_alike(drawn(split, 11), drawn(pipe, 11))


@pytest.mark.slow
def test_pmap(folder, pipe):
    mapped = small_pipelines.opened(folder, mapping=ParallelConfig(mapping="pmap").open())
    assert_alike(drawn(mapped, 11), drawn(pipe, 11))


@pytest.mark.slow
def test_a_copy_makes_the_same_images(pipe):
    copied = copy.deepcopy(pipe)
    np.testing.assert_array_equal(drawn(copied), drawn(pipe))
    copied.params = jax.tree.map(jnp.zeros_like, copied.params)
    assert np.abs(drawn(copied) - drawn(pipe)).max() > 0.05


def test_how_many_images_a_call_of_a_published_checkpoint_has(folder):
    assert load_params(str(folder))[1].objective.sampling.batch_size == 64  # 64 of 16 x 16 are few pixels
    sizes = {(8, 8): 64, (64, 64): 64, (256, 256): 4, (512, 512): 1, (768, 512): 1, (1024, 1024): 1}
    for size, number in sizes.items():
        assert images_at_once(ImageSpec((*size, 3), 256)) == number
