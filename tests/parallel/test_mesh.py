"""Batches over devices."""

import jax
import numpy as np
import pytest

from marble.errors import InputError
from marble.parallel import check_divides, data_mesh, put_batch, replicated


def test_a_batch_is_split_in_order():
    mesh = data_mesh()
    batch = put_batch(mesh, {"x": np.arange(16).reshape(16, 1)})
    assert [shard.data.ravel().tolist() for shard in batch["x"].addressable_shards] == [
        [2 * i, 2 * i + 1] for i in range(8)
    ]


def test_the_batch_axis_can_be_the_second():
    batch = put_batch(data_mesh(), {"x": np.zeros((3, 16))}, batch_axis=1)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(3, 2)}


def test_replicated_is_everywhere():
    x = jax.device_put(np.ones(3), replicated(data_mesh()))
    assert len(x.addressable_shards) == 8 and x.is_fully_replicated


def test_an_uneven_batch_names_sizes_that_fit():
    with pytest.raises(InputError, match=r"training.batch_size=20 .* 8 devices: use 16 or 24"):
        check_divides("training.batch_size", 20, data_mesh())
    with pytest.raises(InputError, match="use 8 or 16"):
        check_divides("training.batch_size", 3, data_mesh())
    check_divides("training.batch_size", 24, data_mesh())
