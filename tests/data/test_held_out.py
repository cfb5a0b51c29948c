"""Training images that are held out of data without a split for it."""

import numpy as np
import pytest

from marble.data.examples import ArrayExamples, StoredExamples
from marble.data.sources import Source, with_held_out
from marble.errors import InputError
from marble.experiments import DataConfig

LABELS = np.arange(23, dtype=np.int32)
HELD = ArrayExamples(np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1), LABELS, [str(i) for i in range(23)])
STORED = StoredExamples(list(range(23)), lambda i, record: dict(HELD[record]))


def source_of(examples, **splits):
    splits = {"train": len(examples), **splits}
    return Source("pictures", 256, (1, 1, 1), 23, None, splits, "content 1", lambda split: examples)


@pytest.mark.parametrize("examples", [HELD, STORED], ids=["held", "stored"])
def test_each_example_is_in_one_of_the_splits(examples):
    source = with_held_out(source_of(examples), 5)
    assert source.splits == {"train": 18, "validation": 5} and source.held_out == "validation"
    found = {split: [source.read(split)[i] for i in range(n)] for split, n in source.splits.items()}
    labels = {split: [int(example["label"]) for example in rows] for split, rows in found.items()}
    assert sorted(labels["train"] + labels["validation"]) == LABELS.tolist()
    assert labels["validation"] == [0, 4, 9, 13, 18]  # from all over
    for rows in found.values():
        assert all(row["text"] == str(int(row["label"])) and row["image"].item() == row["label"] for row in rows)
    assert source.originals != source_of(examples).originals  # a run with others held out is another run


def test_texts_go_with_their_images():
    made = lambda texts: {"tokens": np.array([[len(text)] for text in texts])}  # noqa: E731
    for examples in (HELD, STORED):
        found = with_held_out(source_of(examples), 5).read("train").with_text_arrays(made)
        assert [int(found[i]["tokens"][0]) for i in (0, 17)] == [1, 2]
        assert found.texts(3) == ["1", "8", "16"]


def test_what_can_t_be_held_out():
    with pytest.raises(InputError, match="data.held_out=5, and pictures has a split 'test': leave data.held_out out"):
        with_held_out(source_of(HELD, test=3), 5)
    with pytest.raises(InputError, match="data.held_out=23 of the 23 images of pictures leaves none to train on"):
        with_held_out(source_of(HELD), 23)
    with pytest.raises(InputError, match="data.held_out=0 must be at least 1"):
        DataConfig("digits", held_out=0)
    no_texts = ArrayExamples(HELD.image)
    with pytest.raises(InputError, match="the data have no texts, and this model is told each image's own"):
        no_texts.texts(3)
