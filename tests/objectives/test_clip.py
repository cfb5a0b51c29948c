"""CLIP's objective: the same on any devices, learnt from pairs, and left as other libraries read it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captioned import write
from processes import metrics
from stepping import stepped

from marble import builders, loading, run
from marble.convert.folder import open_part
from marble.convert.text import open_text_encoder
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.features import embed_texts, open_features
from marble.models.clip import Clip
from marble.parallel import ParallelConfig
from marble.typing import ImageSpec

IMAGE = ImageSpec((16, 16, 3), 256)
TEXTS = [f"a {colour} square on the {place}" for colour in ("red", "green", "blue") for place in ("left", "right")]
KEY = jax.random.key(0, impl="threefry2x32")


def config_of(data, *, num_steps=4, **sections):
    config = {
        "seed": 0,
        "data": data,
        "model": {"name": "clip"},
        "clip": {"projection": 8},
        "text_model": {"width": 16, "num_layers": 1, "num_heads": 2},
        "image_model": {"width": 16, "num_layers": 1, "num_heads": 2, "patch_size": 8},
        "tokenizer": {"vocab_size": 560, "max_length": 12},
        "optimizer": {"name": "adam", "learning_rate": 3e-3},
        "training": {
            **{"batch_size": 16, "num_steps": num_steps, "ema_decay": 0.5, "log_every": num_steps},
            **{"eval_every": num_steps, "sample_every": num_steps, "checkpoint_every": num_steps},
        },
    }
    return builders.complete({**config, **sections})


def built(**sections):
    return builders.build(config_of({"name": "image_folder"}, **sections), IMAGE, texts=lambda limit: TEXTS[:limit])


def batch_of(experiment, size=16):
    rng = np.random.default_rng(0)
    texts = [TEXTS[i] for i in rng.integers(0, len(TEXTS), size)]
    image = rng.integers(0, 256, (size, *IMAGE.shape)).astype(np.uint8)
    tokens = experiment.objective.tokenizer.encode(texts)[0]
    return {"image": image, "index": np.arange(size, dtype=np.int32), "tokens": tokens}


@pytest.mark.parametrize("loss", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_the_batch_is_one_on_any_number_of_devices(loss):
    """One device, eight, and eight by pmap have the same gradients, by the moments that Adam keeps of them."""
    experiment = built(clip={"projection": 8, "loss": loss})

    def found(mapping):
        state = stepped(experiment, mapping, batch_of(experiment), KEY, steps=1)
        return jax.tree.leaves((state.opt_state, state.window))

    one = found(ParallelConfig().open(jax.devices()[:1]))
    for mapping in (ParallelConfig().open(), ParallelConfig(mapping="pmap").open()):
        for ours, theirs in zip(one, found(mapping), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-7)


def test_the_loss_is_over_similarities():
    """Of the embeddings that the pipeline gives, by NumPy; of texts that are equal each image has several."""
    experiment = built()
    batch = batch_of(experiment)
    params = jax.jit(experiment.init_params)()
    loss, sums = jax.jit(experiment.loss_fn(train=False))(params, batch, KEY)
    pipe = experiment.pipeline(params)
    rng = np.random.default_rng(0)
    texts = [TEXTS[i] for i in rng.integers(0, len(TEXTS), 16)]
    similar = np.exp(params["clip"]["logit_scale"]) * pipe.similarity(batch["image"], texts)
    is_pair = np.array([[a == b for b in texts] for a in texts])
    ways = []
    for logits in (similar, similar.T):
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ways.append((log_p * is_pair).sum(axis=1) / is_pair.sum(axis=1))
    np.testing.assert_allclose(loss, -np.mean(ways), rtol=1e-4)
    np.testing.assert_allclose(experiment.objective.log(sums)["temperature"], 0.07, rtol=1e-5)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on captioned squares."""
    folder = tmp_path_factory.mktemp("clip")
    data = {"name": "image_folder", "source": str(write(folder / "data")), "data_dir": str(folder / "tfds")}
    run.run(config_of(data, num_steps=150), str(folder / "run"))
    return folder / "run"


def test_it_learns_which_text_an_image_has(workdir):
    found = next(line for line in metrics(workdir) if "heldout_image_to_text" in line)
    chance = found["heldout_retrieval_by_chance"]
    assert 0.1 < chance < 0.2  # eight texts, some of them more often
    assert found["heldout_image_to_text"] > 4 * chance and found["heldout_text_to_image"] > 4 * chance
    assert 0 < metrics(workdir)[0]["loss"] < np.log(16)  # what guessing costs
    assert not (workdir / "samples").exists()


def test_it_is_loaded_with_the_tokenizer_that_it_began_with(workdir):
    pipe = loading.load(str(workdir))
    found = pipe.encode_text(["a red square on the left", "a blue square on the right"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    opened = Tokenizer.open(workdir / "tokenizer", max_length=12)
    np.testing.assert_array_equal(opened.encode(TEXTS)[0], pipe.tokenizer.encode(TEXTS)[0])
    with pytest.raises(InputError, match="2 images asked of a CLIP, which draws none"):
        pipe.sample(2)


def test_what_it_leaves_is_a_text_encoder_and_a_judge(workdir):
    folder = workdir / "clip"
    assert isinstance(open_part(folder).model, Clip)
    model, _ = open_text_encoder(str(folder))
    assert model.width == 16 and Tokenizer.open(folder).max_length == 12
    pipe = loading.load(str(workdir))
    network = open_features(f"clip:{folder}")
    images = np.random.default_rng(0).integers(0, 256, (3, *IMAGE.shape)).astype(np.uint8)
    seen = jax.jit(network.apply)(network.params, network.prepare(jnp.asarray(images)))["embedding"]
    np.testing.assert_allclose(seen, pipe.encode_image(images), atol=1e-5)
    np.testing.assert_allclose(embed_texts(str(folder), TEXTS), pipe.encode_text(TEXTS), atol=1e-5)


def test_classes_are_texts_too():
    experiment = builders.build(
        config_of({"name": "x"}, clip={"captions": False, "template": "a {}", "projection": 8}),
        IMAGE,
        class_names=("cat", "dog"),
    )
    assert experiment.objective.class_texts == ("a cat", "a dog") and experiment.objective.keys == ("label",)
    batch = {**batch_of(experiment), "label": np.arange(16) % 2}
    del batch["tokens"]
    params = jax.jit(experiment.init_params)()
    loss, _ = jax.jit(experiment.loss_fn(train=True))(params, batch, KEY)
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"image_model": {"patch_size": 32}}, "image_model.patch_size=32 is larger than the images, 16: lower it"),
        ({"clip": {"captions": False}}, "clip.captions is off, and the data have no classes to make texts of"),
        ({"tokenizer": {"vocab_size": 100}}, "tokenizer.vocab_size=100 must be at least 514"),
        ({"tokenizer": {"path": "/nowhere"}}, "/nowhere is no folder"),
    ],
)
def test_words_that_can_t_be(sections, message):
    with pytest.raises(InputError, match=message):
        built(**sections)


def test_micro_batches_and_shapes_that_can_t_be():
    training = config_of({"name": "x"}).training.to_dict()
    with pytest.raises(InputError, match="training.accumulate=2: the loss of CLIP is of the whole batch"):
        built(training={**training, "accumulate": 2}).objective.check()
    with pytest.raises(InputError, match=r"images of \[16, 8, 3\]: CLIP reads squares"):
        builders.build(config_of({"name": "x"}), ImageSpec((16, 8, 3), 256), texts=lambda limit: TEXTS)
    with pytest.raises(
        InputError, match="no texts are at hand .*, and the run's own, /nowhere/tokenizer, is not there: set"
    ):
        builders.build(config_of({"name": "x"}), IMAGE, folder="/nowhere")
