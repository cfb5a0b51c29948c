import numpy as np
from sklearn.datasets import load_digits

from marble.data.digits import CLASS_NAMES, IMAGE_SHAPE, LEVELS, SPLITS, read_digits


def test_the_splits_part_scikit_learns_images():
    images, labels = load_digits(return_X_y=True)
    real = sorted(map(tuple, np.column_stack([images, labels]).astype(int).tolist()))
    found = []
    for split, count in SPLITS.items():
        examples = read_digits(split)
        assert examples.image.shape == (count, *IMAGE_SHAPE) and examples.image.dtype == np.uint8
        assert examples.label.shape == (count,) and examples.label.dtype == np.int32
        found.append(np.column_stack([examples.image.reshape(count, -1), examples.label]))
    assert sorted(map(tuple, np.concatenate(found).tolist())) == real


def test_classes_have_equal_shares_of_both_splits():
    counts = {split: np.bincount(read_digits(split).label, minlength=len(CLASS_NAMES)) for split in SPLITS}
    np.testing.assert_allclose(counts["test"], (counts["train"] + counts["test"]) / 5, atol=1)


def test_every_level_occurs_and_no_other():
    assert np.unique(read_digits("train").image).tolist() == list(range(LEVELS))


def test_held_out_images_come_in_no_order_of_class():
    """Else the first pictures of a grid would all show a zero."""
    assert len(set(read_digits("test").label[:30].tolist())) == len(CLASS_NAMES)
