"""Workdirs of what others trained: what is stored in which precision, and failures on the way."""

import jax.numpy as jnp
import numpy as np
import pytest
import small_pipelines
from conversion.folders import assert_same_params, weights

from marble import loading
from marble.conversion import convert
from marble.convert.folder import open_part, params_of_part


def test_frozen_parts_are_stored_in_a_dtype_and_parameters_are_not(tmp_path):
    source = small_pipelines.stable_diffusion(tmp_path / "in")
    convert(source, tmp_path / "run", dtype="bfloat16")
    assert {array.dtype for array in weights(tmp_path / "run").values()} == {np.dtype(jnp.bfloat16)}
    assert_same_params(loading.load_params(str(tmp_path / "run"))[2], params_of_part(open_part(source / "unet")))


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    source = small_pipelines.stable_diffusion(tmp_path / "in")

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("marble.conversion.to_marble.workdir.remember", fails)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not any((tmp_path / "out").iterdir())
