"""A model of ours beside a PyTorch one with the same weights; importing it skips a test where PyTorch is absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.convert.names import params_of, tensors_of
from marble.convert.tensors import held

torch = pytest.importorskip("torch")


def shaken(module, seed=0, size=0.05):
    """The PyTorch module, its weights moved so that no zero hides a wrong layer; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator))
    return module.eval()


def arrays_of(module, *, without=()):
    """Its state, as NumPy arrays by name."""
    return {k: v.detach().numpy() for k, v in module.state_dict().items() if k not in without}


def shapes_of(model, *inputs, **options):
    return jax.eval_shape(model.init, jax.random.key(0), *inputs, **options)["params"]


def converted(table, arrays, shapes, as_now=lambda tensors: tensors):
    """Our parameters; on the way it is checked that going back gives the same bits under the same names."""
    params = params_of(table, as_now(held(arrays)), shapes)
    back = dict(tensors_of(table, params))
    now = {name: tensor.read() for name, tensor in as_now(held(arrays)).items()}
    assert set(back) == set(now)
    for name, array in back.items():
        np.testing.assert_array_equal(array, now[name], err_msg=name)
    return params


def nchw(images):
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_near(ours, theirs, share=1e-4):
    """Within a share of the largest number."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    assert largest > 1e-3
    assert np.abs(ours - theirs).max() <= share * largest, np.abs(ours - theirs).max() / largest


def run(model, params, *inputs, **options):
    return jax.jit(lambda p, *args: model.apply({"params": p}, *args, **options))(params, *inputs)


def in_bfloat16(model):
    return model.clone(dtype=jnp.bfloat16)


def assert_near_in_bfloat16(ours, theirs, exact):
    """ours, computed in bfloat16, is within 1e-2 of the exact one, or as near as theirs in bfloat16 is.

    By the root of the mean square: of 8 bits a number, the farthest of thousands is no measure.
    """
    own, others = (_distance(answer, exact) for answer in (ours, theirs))
    assert own <= max(1e-2, 1.5 * others), (own, others)


def _distance(answer, exact):
    answer, exact = np.asarray(answer, np.float32), np.asarray(exact, np.float32)
    return np.sqrt(np.square(answer - exact).mean() / np.square(exact).mean())


def half(inputs):
    """Torch's float32 tensors, in dicts or alone, in bfloat16; others as they are."""
    if isinstance(inputs, dict):
        return {key: half(value) for key, value in inputs.items()}
    return inputs.bfloat16() if inputs.dtype == torch.float32 else inputs
