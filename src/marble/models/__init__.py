"""Networks: flax.linen modules that know no noise schedule."""

from marble.models.unet import UNet

__all__ = ["UNet"]
