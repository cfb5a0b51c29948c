"""What runs of ours leave, opened by diffusers and transformers: the same embeddings, reconstructions and pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained_parts import train

from marble import loading
from marble.conversion import convert
from marble.convert.latents import open_autoencoder

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.slow]
TEXTS = ["a red square on the left", "A  blue square", "", "something <|endoftext|> else: 42 狐"]
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return train(tmp_path_factory.mktemp("parts"), "autoencoder", "clip", "latent")


def test_transformers_opens_clip_and_its_tokenizer(parts):
    folder = parts / "clip" / "clip"
    pipe = loading.load(str(parts / "clip"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    theirs = tokenizer(TEXTS, padding="max_length", max_length=24, truncation=True)["input_ids"]
    np.testing.assert_array_equal(pipe.tokenizer.encode(TEXTS)[0], theirs)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    pixels = (IMAGES - 255 * np.float32([0.48145466, 0.4578275, 0.40821073])) / (
        255 * np.float32([0.26862954, 0.26130258, 0.27577711])
    )
    with torch.no_grad():
        found = model(input_ids=torch.tensor(theirs), pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(pipe.encode_text(TEXTS), found.text_embeds, atol=1e-5)
    np.testing.assert_allclose(pipe.encode_image(IMAGES), found.image_embeds, atol=1e-5)


def test_diffusers_opens_the_autoencoder(parts):
    folder = parts / "autoencoder" / "vae"
    theirs = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    model, params, scale = open_autoencoder(str(folder))
    assert theirs.config.scaling_factor == scale
    x = 2 * IMAGES.astype(np.float32) / 255 - 1
    mean, _ = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))(params, x)
    with torch.no_grad():
        found = theirs.encode(torch.tensor(x.transpose(0, 3, 1, 2))).latent_dist.mean
    np.testing.assert_allclose(mean, found.numpy().transpose(0, 2, 3, 1), atol=1e-4 * np.abs(found.numpy()).max())


def test_diffusers_draws_the_same_pictures(parts, tmp_path):
    """By `marble convert --to diffusers`: the same prompt, noise and steps."""
    out = tmp_path / "out"
    convert(str(parts / "latent"), str(out), to="diffusers")
    pipe = loading.load(str(parts / "latent"))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(0).standard_normal((4, *pipe.codec.spec.shape)).astype(np.float32)
    for scale in (1.0, 3.0):
        options = dict(guidance_scale=scale)
        ours = pipe.sample(4, text=TEXTS, noise=noise, steps=5, sampler="ddim", **options)
        latents = torch.tensor(noise.transpose(0, 3, 1, 2))
        found = theirs(
            TEXTS, latents=latents, num_inference_steps=5, height=16, width=16, output_type="np", **options
        ).images
        apart = np.abs(ours.astype(int) - np.round(found * 255))
        assert (apart <= 1).mean() >= 0.99, apart.max()
        assert ours.std() > 2
    assert jnp.isfinite(ours).all()
