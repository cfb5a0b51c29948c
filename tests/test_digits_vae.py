"""The digits' autoencoder at full size: how good its samples and its likelihood are. Minutes on two cores."""

import numpy as np
import pytest
from processes import finished, marble
from test_digits import real

from marble.data.sources import open_source
from marble.loading import load
from marble.metrics import nearest_neighbour_accuracy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits_vae")
    finished(marble("train", "--config", "configs/digits_vae.py", "--workdir", folder, optimised=True), timeout=3000)
    return load(str(folder))


def test_its_samples_are_digits_but_a_nearest_neighbour_knows_them(pipe):
    generated, (training, _), (held_out, _) = pipe.sample(800), real("train"), real("test")
    chosen = training[np.random.default_rng(0).permutation(len(training))[:800]]
    accuracy = nearest_neighbour_accuracy(generated, chosen)
    print("800 generated against 800 training digits:", accuracy)
    print("360 generated against the 360 held-out digits:", nearest_neighbour_accuracy(generated[:360], held_out))
    assert 0.55 < accuracy < 0.75


def test_bits_per_dim(pipe):
    for split, num_samples in (("train", 100), ("test", 1000)):
        examples = open_source("digits").read(split)
        images = np.stack([examples[i]["image"] for i in range(len(examples))])
        bits = pipe.bits_per_dim(images, num_samples=num_samples)
        for name, values in bits.items():
            print(f"{split} {name}: {values.mean():.3f} +- {values.std() / np.sqrt(len(values)):.3f} bits/dim")
        assert bits["importance_weighted"].mean() < bits["elbo"].mean() < 1.9
