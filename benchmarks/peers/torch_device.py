"""PyTorch on the device that jax computes on: a GPU if both see one, else the CPU with all its cores."""

import jax
import torch


def on_gpu() -> bool:
    """Whether both see one."""
    return torch.cuda.is_available() and jax.default_backend() == "gpu"


def torch_device() -> torch.device:
    """Where PyTorch's side runs."""
    return torch.device("cuda" if on_gpu() else "cpu")


def wait_for_torch() -> None:
    """Returns when what was started is done."""
    if on_gpu():
        torch.cuda.synchronize()


def as_jax_has_it() -> None:
    """TF32 for float32 on a GPU, which is jax's default there, and the quickest convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
