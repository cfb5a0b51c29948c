"""Copies of pipelines, and what the attempt to pickle one says."""

import copy
import pickle

import jax
import numpy as np
import pytest
from tables import rest_slow

from marble import builders
from marble.cli.train import configured
from marble.errors import InputError
from marble.pipelines import ImageSpec

WORDS = {
    "digits:smoke": [],
    "digits_vae:smoke": [],
    "digits:smoke of a learned schedule": [
        "--config.diffusion.beta_schedule=learned_linear",
        "--config.diffusion.weighting=elbo",
        "--config.sampling.num_steps=2",
    ],
}


def made(name, **options):
    config = configured(name.split()[0], ["--config.model.channel_mult=(1,)", *WORDS[name]])
    experiment = builders.build(config, ImageSpec((8, 8, 1), 17))
    params = jax.jit(experiment.init_params)()
    # The last layers begin at zero: other values, so that the images depend on everything.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    filled = [leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return experiment.pipeline(tree.unflatten(filled), **options)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("how", rest_slow([copy.deepcopy, copy.copy], copy.deepcopy))
def test_a_copy_draws_the_same_images_with_parameters_of_its_own(name, how):
    pipe = made(name)
    images = pipe.sample(3, seed=5)
    other = how({"pipe": pipe})["pipe"] if how is copy.deepcopy else how(pipe)
    assert other is not pipe
    for leaf in jax.tree.leaves(pipe.params):
        leaf.delete()
    np.testing.assert_array_equal(other.sample(3, seed=5), images)


@pytest.mark.slow
def test_a_guide_comes_along():
    guide = made("digits:smoke")
    pipe = made("digits:smoke", guide=guide)
    np.testing.assert_array_equal(
        copy.deepcopy(pipe).sample(2, seed=5, guidance_scale=2.0), pipe.sample(2, seed=5, guidance_scale=2.0)
    )


@pytest.mark.parametrize("name", ["digits:smoke", "digits_vae:smoke"])
def test_pickling_says_what_to_do(name):
    with pytest.raises(InputError, match=r"Pipeline can't be pickled.*marble.load\(workdir\) in the other process"):
        pickle.dumps(made(name))
