"""A classifier of noisy images guides a pipeline: beside the formula, and from its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files

from marble import loading, run
from marble.cli.train import configured
from marble.conditioning import Identity, Labels
from marble.convert import adm
from marble.convert.names import tensors_of
from marble.diffusion import linear
from marble.errors import InputError
from marble.models import AdmClassifier, UNet
from marble.pipelines import Classifier, DiffusionPipeline, ImageSpec, SamplingConfig
from marble.sampling import Ancestral

IMAGE = ImageSpec((8, 8, 1), levels=256)
SIZES = dict(channels=64, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(8,), num_classes=10)


def shaken(model, *inputs):
    params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@pytest.fixture(scope="module")
def classifier():
    model = AdmClassifier(**SIZES, head_channels=64)
    return Classifier(shaken(model, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)), model)


@pytest.fixture(scope="module")
def pipe(classifier):
    model = UNet(1, 8, (1,), 1, (), num_groups=4, num_classes=10)
    params = shaken(model, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)})
    return DiffusionPipeline(
        model=model,
        params=params,
        schedule=linear(20),
        codec=Identity(IMAGE),
        conditioner=Labels(10, 0.1),
        sampler=Ancestral(),
        config=SamplingConfig(clip_sample=False, batch_size=8),
        classifier=classifier,
    )


@pytest.mark.slow
def test_eps_moves_along_the_gradient_of_what_the_classifier_says(pipe, classifier):
    x_t = jax.random.normal(jax.random.key(2), (3, 8, 8, 1))
    level, label = pipe.schedule.level(jnp.array(12)), jnp.array([3, 7, 10])  # the last is told no class
    context = {"label": label}
    guided = pipe.guided_fn(pipe.all_params(), pipe.guidance(classifier_scale=5.0), context)(x_t, level, context)
    plain = pipe.denoise_fn(pipe.params)(x_t, level, context)

    def log_p(x, y):
        logits = classifier.model.apply({"params": classifier.params}, x[None], jnp.array([12]))[0]
        return logits[y] - jax.nn.logsumexp(logits)

    gradient = jax.vmap(jax.grad(log_p))(x_t, jnp.minimum(label, 9))
    assert jnp.abs(gradient[:2]).max() > 1e-4
    expected = plain.eps - 5.0 * level.sigma * gradient.at[2].set(0)
    np.testing.assert_allclose(guided.eps, expected, atol=1e-6)


@pytest.mark.slow
def test_the_scale_is_an_argument_of_one_program(pipe):
    images = {
        scale: pipe.sample(2, labels=3, classifier_scale=scale, as_float=True, steps=3) for scale in (0.0, 1.0, 50.0)
    }
    assert np.abs(images[0.0] - images[50.0]).max() > 1e-3
    np.testing.assert_array_equal(images[1.0], pipe.sample(2, labels=3, as_float=True, steps=3))


@pytest.mark.slow
def test_a_published_file_guides_a_run(classifier, tmp_path):
    run.run(
        configured(
            "digits:conditional",
            [
                "--config.training.num_steps=1",
                "--config.model.channels=8",
                "--config.model.num_groups=4",
                "--config.training.eval_every=0",
                "--config.training.sample_every=0",
            ],
        ),
        str(tmp_path / "run"),
    )
    path = tmp_path / "classifier.pt"
    tensors = dict(tensors_of(adm.table(classifier.model, 8), classifier.params))
    torch_files.write_zip(path, tensors)
    pipe = loading.load(str(tmp_path / "run"), classifier=str(path))
    assert pipe.sample(1, labels=3, steps=2, batch_size=8, classifier_scale=3.0).shape == (1, 8, 8, 1)
    for scale in (float("nan"), 1e7):
        with pytest.raises(InputError, match="classifier_scale=.* must be a number below"):
            pipe.sample(1, labels=3, classifier_scale=scale)
    with pytest.raises(InputError, match=r"classifier_scale=2.0 needs a classifier"):
        loading.load(str(tmp_path / "run")).sample(1, classifier_scale=2.0)
