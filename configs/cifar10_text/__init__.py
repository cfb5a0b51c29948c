"""Text to image on CIFAR-10, whose texts are made of the names of classes: the emoji's four trainings on other data."""

from ml_collections import ConfigDict

TEMPLATE = "a photo of a {}"
"""The text of an image, of its class."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PROMPTS = tuple(TEMPLATE.format(name) for name in CLASSES)
"""What the grids that are drawn in training are of, and the last pictures."""
FOLDER = "runs/cifar10_text"


def on_cifar10(config: ConfigDict) -> ConfigDict:
    """A config of configs/emoji with these data; what it held out is the test split here."""
    config.data = ConfigDict({"name": "cifar10", "flip": True})
    return config
