"""The adapters of a run as a file, read again. Beside diffusers and peft: convert/test_lora_parity.py."""

import numpy as np
import pytest
import small_adapters
import small_pipelines
from conversion.folders import arrays_of

from marble import loading
from marble.conversion import convert
from marble.convert.adapters import table_of
from marble.convert.lora import FILE
from marble.convert.names import flat


@pytest.fixture(scope="module", params=["stable_diffusion", "classes"])
def adapted(request, tmp_path_factory):
    """(a pipeline's folder, a run of its adapters, these by their paths)."""
    folder = tmp_path_factory.mktemp(request.param)
    base = getattr(small_pipelines, request.param)(folder / "base")
    return base, folder / "run", flat(small_adapters.write(folder / "run", base))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_file_holds_the_adapters_transposed(adapted, dtype, tmp_path):
    base, run, adapters = adapted
    convert(run, tmp_path / "out", to="lora", dtype=dtype)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [FILE]
    table, part = table_of(loading.load_params(str(base))[1].objective.model)
    expected = {}
    for path, array in adapters.items():
        kernel, _, half = path.rpartition("/")
        (theirs,) = (entry.theirs.removesuffix(".weight") for entry in table if entry.ours == kernel)
        letter = {"down": "A", "up": "B"}[half]
        expected[f"{part}.{theirs}.lora_{letter}.weight"] = array.T.astype(dtype or array.dtype)
    found = arrays_of(tmp_path / "out" / FILE)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_the_base_with_the_file_is_the_run_s_network(adapted, tmp_path):
    base, run, _ = adapted
    convert(run, tmp_path / "out", to="lora")
    found = flat(loading.load(str(base), lora=str(tmp_path / "out")).params)
    at_the_file = flat(loading.load(str(base), lora=str(tmp_path / "out" / FILE)).params)
    assert all(np.array_equal(found[path], array) for path, array in at_the_file.items())
    whole, plain = (flat(loading.load_params(str(folder))[2]) for folder in (run, base))
    assert set(found) == set(whole)
    for path, array in whole.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-5, atol=1e-6, err_msg=path)
    assert max(np.abs(whole[path] - plain[path]).max() for path in plain) > 0.05
