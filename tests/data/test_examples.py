import numpy as np

from marble.data.examples import ArrayExamples, StoredExamples

IMAGE = np.random.default_rng(6).integers(0, 256, (5, 2, 3, 1), dtype=np.uint8)
LABEL = np.arange(5, dtype=np.int32)


def test_an_example_has_what_the_data_have():
    assert set(ArrayExamples(IMAGE)[0]) == {"image"}
    assert set(ArrayExamples(IMAGE, LABEL)[0]) == {"image", "label"}
    example = ArrayExamples(IMAGE, LABEL, list("abcde"))[3]
    np.testing.assert_array_equal(example["image"], IMAGE[3])
    assert (example["label"], example["text"]) == (3, "d")


def test_a_batch_is_its_examples_stacked():
    examples = ArrayExamples(IMAGE, LABEL, list("abcde"))
    batch = examples.take([4, 0, 4])
    assert set(batch) == {"image", "label"}
    for key in batch:
        np.testing.assert_array_equal(batch[key], np.stack([examples[i][key] for i in (4, 0, 4)]))


def test_stored_examples_are_decoded_when_asked_for():
    asked = []
    examples = StoredExamples([10, 20, 30], lambda i, record: asked.append(i) or {"image": record + i})
    assert len(examples) == 3 and asked == []
    assert examples[1] == {"image": 21} and asked == [1]
