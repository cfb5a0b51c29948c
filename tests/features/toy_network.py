"""Small networks of features: one that NumPy says too, and one of convolutions."""

import jax
import jax.numpy as jnp
import numpy as np

from marble.features import FeatureNetwork
from marble.models.efficientnet import EfficientNetLite, Stage

SETTINGS = dict(size=8, mean=(128.0,) * 3, std=(64.0,) * 3, resize="torch_fidelity", rounding="uint8", weights_hash="0")


def linear_network(**settings):
    """features [b 5]: a matrix times all pixels; logits [b 2]: the first two of them."""
    params = {"kernel": np.random.default_rng(0).normal(size=(8 * 8 * 3, 5)).astype(np.float32)}

    def forward(params, images):
        features = images.reshape(len(images), -1) @ params["kernel"]
        return {"features": features, "logits": features[:, :2]}

    named = dict(name="linear", distance_name="FD-linear", layers=("features", "logits"))
    return FeatureNetwork(**named, params=params, forward=forward, **(SETTINGS | settings))


def small_effnet(**settings):
    """Convolutions of all kinds, with random weights."""
    model = EfficientNetLite((Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 6, 8)), stem=4, head=6, num_classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(np.float32) / 4, shapes)
    forward = lambda params, images: model.apply({"params": params}, images)._asdict()  # noqa: E731
    named = dict(name="small", distance_name="FD-small", layers=("features", "logits"))
    return FeatureNetwork(**named, params=params, forward=forward, **(SETTINGS | settings))
