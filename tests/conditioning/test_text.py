"""Texts as the model is told them: encoded, dropped, padded; and what does not go together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
import vocabularies

from marble.conditioning import Text
from marble.errors import InputError
from marble.schema import Reading, merged
from marble.typing import ImageSpec

KEY = jax.random.key(3, impl="threefry2x32")
IMAGE = ImageSpec((16, 16, 3), levels=256)
NAMES = ("cat", "dogs")
UNET, XL = small_networks.UNET, small_networks.UNET_XL


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The section ``text`` for each kind of encoders."""
    folder = tmp_path_factory.mktemp("parts")
    networks = [small_networks.clip_text(), small_networks.clip_text(projection=6), small_networks.bert_text()]
    clip, second, bert = (
        str(small_networks.write(folder / str(seed), network, seed=seed)) for seed, network in enumerate(networks)
    )
    of_clip = str(small_networks.write_tokenizer(folder / "words"))
    of_bert = str(vocabularies.write_bert(folder / "bert_words"))
    return {
        "clip": {"encoders": [clip], "tokenizers": [of_clip]},
        "bert": {"encoders": [bert], "tokenizers": [of_bert]},
        "xl": {"encoders": [clip, second], "tokenizers": [of_clip, of_clip], "states": "penultimate"},
    }


def built(words, model=UNET, class_names=NAMES, **more):
    reading = Reading({"text": {**words, **more}}, merged(Text.sections))
    return Text.build(reading, model, class_names, IMAGE)


def batch_of(size):
    images = np.zeros((size, *IMAGE.shape), np.float32)
    return {"image": images, "label": np.arange(size, dtype=np.int32) % 2, "index": np.arange(size, dtype=np.int32)}


def told_of(text, texts, **request):
    return text.of_rows(text.of_request(len(texts), {"text": texts, **request}, IMAGE))


def assert_same(a, b):
    assert set(a) == set(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), dict(a), dict(b))


@pytest.mark.parametrize("size", [2, 5])  # with more images than classes, each text is encoded once
def test_the_text_of_an_image_is_made_of_its_class(words, size):
    text = built(words["clip"], template="a photo of {}")
    batch = batch_of(size)
    expected = told_of(text, [f"a photo of {NAMES[label]}" for label in batch["label"]])
    assert text.keys == ("label",)
    assert_same(text.context(batch, KEY, train=False), expected)
    assert np.abs(expected["text"][0] - expected["text"][1]).max() > 0.01


def test_texts_are_dropped_at_their_rate_in_training_alone(words):
    text = built(words["clip"], text_dropout=0.25)
    batch, null = batch_of(2000), text.null(1)["text"]
    told = text.context(batch, KEY, train=True)["text"]
    is_null = np.abs(told - null).max(axis=(1, 2)) < 1e-5
    assert abs(is_null.mean() - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5
    part = text.context({k: v[8:12] for k, v in batch.items()}, KEY, train=True)["text"]
    np.testing.assert_allclose(part, told[8:12], atol=1e-5)  # the draws are those of the position


def test_one_text_for_all_needs_no_label(words):
    for names, more in (((), {}), (NAMES, {"template": "a painting"})):
        text = built(words["clip"], class_names=names, **more)
        assert text.keys == ()
        text.check_batch({})
    with pytest.raises(InputError, match="template='a {}' has a class's name, and the data have no classes"):
        built(words["clip"], class_names=None, template="a {}")


def test_padding_says_nothing_to_bert(words):
    text = built(words["bert"])
    told = told_of(text, ["a cat", "two dogs running in the snow"])
    mask = np.asarray(told["text_mask"])
    assert mask[0].sum() < mask[1].sum() and mask[0, :2].all()
    # The states there could be anything.
    anything = jnp.where(told["text_mask"][..., None], told["text"], 1e3)
    x_t = jax.random.normal(KEY, (2, 8, 8, 4))
    params = small_networks.random_params(jax.eval_shape(UNET.init, KEY, x_t, jnp.zeros(2), dict(told))["params"])
    network = jax.jit(lambda context: UNET.apply({"params": params}, x_t, jnp.full(2, 500), context))
    expected = network(dict(told))
    np.testing.assert_allclose(network({**told, "text": anything}), expected, atol=1e-5)
    assert np.abs(network({"text": anything}) - expected).max() > 1e-3
    # And a longer row of padding changes no state of a text.
    short = built(words["bert"], max_length=6)
    np.testing.assert_allclose(told_of(short, ["a cat"])["text"][0][mask[0][:6]], told["text"][0][mask[0]], atol=1e-5)


def test_two_encoders_and_sizes(words):
    text = built(words["xl"], XL, zero_null=True)
    told = told_of(text, ["a cat", "dogs"])
    assert told["text"].shape == (2, small_networks.MAX_LENGTH, 24) and told["pooled_text"].shape == (2, 6)
    np.testing.assert_array_equal(told["size"], [[16, 16, 0, 0, 16, 16]] * 2)
    # No negative text is told as zeros, an empty one as what it is.
    rows = text.of_request(2, {"text": "a cat"}, IMAGE._replace(shape=(8, 24, 3)))
    null = text.null_of_rows(rows)
    assert not np.any(null["text"]) and not np.any(null["pooled_text"])
    np.testing.assert_array_equal(null["size"], [[8, 24, 0, 0, 8, 24]] * 2)
    empty = text.null_of_rows(text.of_request(2, {"text": "a cat", "negative_text": ""}, IMAGE))
    assert_same(empty, told_of(text, ["", ""]))
    assert_same(text.null(1), text.null_of_rows(text.of_request(1, {}, IMAGE)))


def test_zeros_for_no_text_leave_its_mask(words):
    text = dataclasses.replace(built(words["bert"]), zero_null=True)
    assert np.asarray(text.null(1)["text_mask"]).any() and not np.any(text.null(1)["text"])


@pytest.mark.parametrize(
    ("kind", "model", "more", "message"),
    [
        (
            "clip",
            XL.clone(text_channels=12),
            {},
            "model.pooled_channels=6 is of a text's vector, and",
        ),
        ("xl", XL.clone(pooled_channels=5), {}, "text.encoders have one of 6 channels"),
        ("xl", UNET, {}, "text.encoders have 24 channels in all, and model.text_channels=12: set that"),
        ("clip", UNET, {"max_length": 13}, "text.max_length=13 for encoders of at most 12 tokens"),
        ("clip", UNET, {"max_length": 1}, "set it to between 2 and 12"),
        ("clip", UNET, {"text_dropout": 1.5}, "text.text_dropout=1.5 must be between 0 and 1"),
    ],
)
def test_what_does_not_go_together(words, kind, model, more, message):
    with pytest.raises(InputError, match=message):
        built(words[kind], model, **more)


def test_each_encoder_has_its_own_tokenizer(words):
    crossed = {"encoders": words["bert"]["encoders"], "tokenizers": words["clip"]["tokenizers"]}
    with pytest.raises(InputError, match="tokens, and the encoder [0-9]+: give each encoder its own tokenizer"):
        built(crossed)
