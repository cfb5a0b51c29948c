"""scikit-learn's 1,797 real images of handwritten digits, 8x8 with 17 levels: the embedded default.

They are a part of the UCI Optical Recognition of Handwritten Digits set (Alpaydin and Kaynak 1998): 32x32 bitmaps
counted in 4x4 blocks, hence the values 0..16.
"""

import numpy as np

from marble.data.examples import ArrayExamples

LEVELS = 17
IMAGE_SHAPE = (8, 8, 1)
CLASS_NAMES = tuple(str(digit) for digit in range(10))
SPLITS = {"train": 1437, "test": 360}
SPLIT_SEED = 0
HELD_OUT_EVERY = 5


def read_digits(split: str) -> ArrayExamples:
    """`train` (1,437 images) or `test` (360 held out), each in scikit-learn's order.

    Held out is every fifth image, from the first, of the images permuted by `numpy.random.RandomState(0)` (a stream
    that NumPy keeps for ever) and then sorted by class, so that the classes have equal shares of both splits.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    held_out = np.isin(np.arange(len(labels)), by_class[::HELD_OUT_EVERY])
    chosen = held_out if split == "test" else ~held_out
    return ArrayExamples(
        image=images[chosen].reshape(-1, *IMAGE_SHAPE).astype(np.uint8), label=labels[chosen].astype(np.int32)
    )
