"""Labels: in training, asked for, and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.conditioning import Labels, Unconditional
from marble.errors import InputError
from marble.schema import Reading, merged
from marble.typing import ImageSpec

LABELS = Labels(3, 0.25, ("cat", "dog", "10"))
KEY = jax.random.key(3, impl="threefry2x32")
IMAGE = ImageSpec((8, 8, 3), levels=256)


def batch_of(size):
    return {"label": np.arange(size, dtype=np.int32) % 3, "index": np.arange(size, dtype=np.int32)}


def test_labels_are_dropped_at_their_rate_in_training_alone():
    batch = batch_of(4000)
    label = np.asarray(LABELS.context(batch, KEY, train=True)["label"])
    dropped = label == 3
    assert abs(dropped.mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    np.testing.assert_array_equal(label[~dropped], batch["label"][~dropped])
    np.testing.assert_array_equal(LABELS.context(batch, KEY, train=False)["label"], batch["label"])


def test_the_draws_are_those_of_the_position_in_the_batch():
    whole = LABELS.context(batch_of(32), KEY, train=True)["label"]
    part = LABELS.context({k: v[8:12] for k, v in batch_of(32).items()}, KEY, train=True)["label"]
    np.testing.assert_array_equal(part, whole[8:12])


def test_a_class_is_asked_for_by_name_or_number():
    for asked, expected in (
        (1, [1, 1]),
        ("dog", [1, 1]),
        (["dog", "cat"], [1, 0]),
        (("cat", 2), [0, 2]),
        ("1", [1, 1]),
        ("10", [2, 2]),  # a name, though it could be a number
        (np.array([0, 2]), [0, 2]),
        (np.array(["dog", "cat"]), [1, 0]),
        (None, [3, 3]),
    ):
        rows = LABELS.of_request(2, {"labels": asked}, IMAGE)
        np.testing.assert_array_equal(rows["label"], expected)
        assert rows["label"].dtype == np.int32


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"labels": 3}, "label 3 is not a class between 0 and 2"),
        ({"labels": -1}, "label -1 is not a class"),
        ({"labels": 1.5}, "label 1.5 is not a class"),
        ({"labels": [0, 1]}, "2 labels for 3 images"),
        ({"labels": "dgo"}, "label 'dgo' is not a class; did you mean 'dog'"),
        ({"labels": ["cat", "x", "dog"]}, "label 'x' is not a class; there are: cat, dog, 10"),
        ({"labels": "4"}, "label 4 is not a class"),
        ({"text": "a cat"}, r"text='a cat' given, but .* without text \(it reads labels\): leave it out"),
    ],
)
def test_what_is_no_class_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        LABELS.of_request(3, asked, IMAGE)


def test_a_text_is_a_name_and_where_all_names_are_numbers_nothing_else():
    labels = Labels(3, class_names=("1", "2", "10"))
    for asked, expected in ("2", 1), ("10", 2), (2, 2), (0, 0):
        assert labels.of_request(1, {"labels": asked}, IMAGE)["label"] == [expected]
    with pytest.raises(InputError, match="label '0' is not a class; .*'10'"):
        labels.of_request(1, {"labels": "0"}, IMAGE)
    for odd in ("+-1", "--1", "1.", "²"):
        with pytest.raises(InputError, match="is not a class"):
            LABELS.of_request(1, {"labels": odd}, IMAGE)


def test_without_names_numbers_alone_are_classes():
    with pytest.raises(InputError, match="'cat' is not a class; its classes have no names: give 0 to 2"):
        Labels(3).of_request(1, {"labels": "cat"}, IMAGE)


def test_without_dropout_there_is_no_null_class():
    for answer in (lambda: Labels(3).of_request(1, {}, IMAGE), lambda: Labels(3).of_context(1, {})):
        with pytest.raises(InputError, match="trained with labels only: give a label between 0 and 2"):
            answer()


def test_a_context_may_hold_the_null_class_and_a_traced_one_passes():
    np.testing.assert_array_equal(LABELS.of_context(2, {"label": np.array([3, 0])})["label"], [3, 0])
    np.testing.assert_array_equal(LABELS.of_context(2, {})["label"], [3, 3])
    with pytest.raises(InputError, match="label 4 is not a class"):
        LABELS.of_context(1, {"label": np.array(4)})
    traced = jax.jit(lambda label: LABELS.of_context(2, {"label": label})["label"])(jnp.array([0, 7]))
    np.testing.assert_array_equal(traced, [0, 7])


def test_the_null_context_is_that_of_an_image_without_a_class():
    np.testing.assert_array_equal(LABELS.null(2)["label"], LABELS.of_request(2, {}, IMAGE)["label"])
    assert Unconditional().null(2) == {} == Unconditional().of_request(2, {"labels": None}, IMAGE)


def test_data_and_batches_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="model.num_classes=3, but mnist has 10 classes"):
        LABELS.check_data("mnist", 10)
    with pytest.raises(InputError, match="but faces has no classes"):
        LABELS.check_data("faces", None)
    with pytest.raises(InputError, match="examples without labels: this model was trained with 3 classes"):
        LABELS.check_batch({"image": np.zeros(1)})
    with pytest.raises(InputError, match="labels from 0 to 3: this model's are 0 to 2"):
        LABELS.check_batch({"label": np.array([0, 3])})
    with pytest.raises(InputError, match="labels=1 given, but this model was trained without labels: leave it out"):
        Unconditional().of_request(1, {"labels": 1}, IMAGE)


def test_examples_show_every_class():
    rows = LABELS.of_request(7, LABELS.examples(7), IMAGE)
    np.testing.assert_array_equal(rows["label"], [0, 1, 2, 0, 1, 2, 0])


class Model:
    """A network of so many classes."""

    def __init__(self, num_classes):
        self.num_classes = num_classes


def built(num_classes, **training):
    return Labels.build(Reading({"training": training}, merged(Labels.sections)), Model(num_classes), ("a", "b"), IMAGE)


def test_the_model_says_whether_there_are_labels():
    assert built(2, label_dropout=0.5) == Labels(2, 0.5, ("a", "b")) and built(None) == Unconditional()
    with pytest.raises(InputError, match="label_dropout is for models with labels: set model.num_classes too"):
        built(None, label_dropout=0.5)
    with pytest.raises(InputError, match="training.label_dropout=1.5 must be between 0 and 1"):
        built(2, label_dropout=1.5)


def test_pixels_are_their_own_space():
    from marble.conditioning import Identity

    codec, images = Identity(ImageSpec((2, 2, 1), 17)), np.ones((3, 2, 2, 1), np.float32)
    assert codec.spec == codec.image and codec.encode(images, KEY) is images and codec.decode(images) is images
