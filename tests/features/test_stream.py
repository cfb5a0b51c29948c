"""Features of streams: the same rows whatever the batches and the devices, and only of what was given."""

import dataclasses

import jax
import numpy as np
import pytest
from features.toy_network import linear_network, small_effnet

from marble.errors import InputError
from marble.features import Featurizer, featurize
from marble.features.stream import rebatched
from marble.parallel import ParallelConfig

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3)).astype(np.uint8)
MESH = ParallelConfig().open()
ONE = ParallelConfig().open(jax.devices()[:1])
PMAP = ParallelConfig(mapping="pmap").open()


def rows_of(network, batches, mapping=MESH, **options):
    found = list(featurize(network, batches, mapping=mapping, **options))
    return {layer: np.concatenate([rows[layer] for rows in found]) for layer in found[0]}


def expected_of(network, images=IMAGES):
    prepared = (np.float64(images) - 128) / 64
    return prepared.reshape(len(images), -1) @ np.float64(network.params["kernel"])


@pytest.mark.parametrize("mapping", [MESH, ONE, PMAP], ids=["mesh", "one device", "pmap"])
@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_rows_are_those_of_each_image_in_order(mapping, batch_size):
    """37 images are no multiple of any of these, so the last call is always filled up."""
    network = linear_network()
    found = rows_of(network, [IMAGES], mapping, batch_size=batch_size, layers=None)
    assert found["features"].shape == (37, 5) and found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], expected_of(network), atol=1e-3)
    np.testing.assert_array_equal(found["logits"], found["features"][:, :2])


def test_a_network_of_convolutions_gives_the_same_on_1_and_8_devices_and_in_any_batches():
    network = small_effnet()
    whole = rows_of(network, [IMAGES], batch_size=40)["features"]
    assert np.abs(whole - whole[:1]).max() > 0.01
    for mapping, batch_size in ((ONE, 5), (MESH, 8), (PMAP, 16)):
        found = rows_of(network, np.array_split(IMAGES, 5), mapping, batch_size=batch_size)["features"]
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


def test_one_program_serves_all_batches_of_a_shape():
    network, traces = linear_network(), []

    def forward(params, images):
        traces.append(images.shape)
        return network.forward(params, images)

    featurizer = Featurizer(dataclasses.replace(network, forward=forward), MESH, batch_size=10)
    assert featurizer.size == 16
    for count in (1, 16, 37):
        np.testing.assert_allclose(featurizer(IMAGES[:count])["features"], expected_of(network)[:count], atol=1e-3)
    assert traces == [(16, 8, 8, 3)]
    featurizer(IMAGES[:3, :4])
    assert traces == [(16, 8, 8, 3)] * 2


def test_parameters_are_arguments_and_no_constants():
    network = linear_network()
    featurizer = Featurizer(network, ONE)
    traced = jax.make_jaxpr(featurizer._rows)(network.params, {"image": IMAGES})
    assert not [value for value in traced.consts if np.size(value) >= network.params["kernel"].size]


def test_every_product_has_all_digits_of_float32():
    """On TPUs and GPUs the default is fewer."""
    network = small_effnet(size=16)
    jaxpr = jax.make_jaxpr(lambda p, x: network.apply(p, network.prepare(x)))(network.params, IMAGES)
    found = list(precisions(jaxpr.jaxpr))
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert len(found) > 10 and set(found) == {highest}


def precisions(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation.params["precision"]
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from precisions(inner)


def test_grey_images_are_those_of_three_equal_channels():
    network = linear_network()
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(
        rows_of(network, [grey])["features"], rows_of(network, [grey.repeat(3, axis=-1)])["features"]
    )


def test_layers_are_those_asked_for_and_progress_is_told_of_images():
    seen = []
    found = list(
        featurize(linear_network(), [IMAGES], mapping=ONE, batch_size=10, layers=("logits",), progress=seen.append)
    )
    assert seen == [10, 10, 10, 7] and [rows["logits"].shape for rows in found] == [(n, 2) for n in seen]
    assert set(found[0]) == {"logits"}


@pytest.mark.parametrize("sizes", [[37], [5, 11, 1, 20], [1] * 37, [16, 16, 5], [30, 7]])
def test_a_stream_is_cut_into_batches_of_one_size(sizes):
    batches = np.split(IMAGES, np.cumsum(sizes)[:-1])
    found = list(rebatched(batches, 16))
    assert [len(batch) for batch in found] == [16, 16, 5]
    np.testing.assert_array_equal(np.concatenate(found), IMAGES)


def test_a_stream_is_read_no_further_than_needed():
    read = []

    def stream():
        for start in range(0, 37, 4):
            read.append(start)
            yield IMAGES[start : start + 4]

    next(featurize(linear_network(), stream(), mapping=ONE, batch_size=8))
    assert read == [0, 4]


@pytest.mark.parametrize(
    "batches, message",
    [
        ([IMAGES[..., :2]], r"images of shape \[37, 8, 8, 2\]: give \[n h w c\], c 1 or 3"),
        ([IMAGES[0]], r"images of shape \[8, 8, 3\]"),
        ([IMAGES[:0]], r"images of shape \[0, 8, 8, 3\]: .* n at least 1"),
        ([IMAGES.astype(np.int32)], "images of int32 from 0 to 255: give uint8, or floats in"),
        ([IMAGES / 255 * 2], "images of float64 from 0.0 to 2.0: give uint8, or floats in"),
        ([np.full((1, 8, 8, 3), np.nan)], "images of float64 from nan to nan"),
        ([IMAGES[:3], IMAGES[:3, :4]], r"images of uint8\[4, 8, 3\] after uint8\[8, 8, 3\]: give images of one shape"),
        ([IMAGES[:3], IMAGES[:3, :, :, :1]], r"images of uint8\[8, 8, 1\] after uint8\[8, 8, 3\]: give images of one"),
        ([IMAGES[:3], IMAGES[:3] / 255], r"images of float32\[8, 8, 3\] after uint8\[8, 8, 3\]"),
    ],
)
def test_what_are_no_images_or_not_alike_is_refused(batches, message):
    with pytest.raises(InputError, match=message):
        list(featurize(linear_network(), batches, mapping=ONE, batch_size=8))


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="linear has no layer 'spatial': it has features, logits"):
        Featurizer(linear_network(), ONE, ("spatial",))
    with pytest.raises(InputError, match="batch_size=0 must be at least 1"):
        Featurizer(linear_network(), ONE, batch_size=0)
    with pytest.raises(
        InputError, match="resize 'bilinear' is not known: choose one of torch_fidelity, ddpm, clean_fid"
    ):
        linear_network(resize="bilinear")
    with pytest.raises(InputError, match="rounding 'int8' is not known: choose uint8 or float"):
        linear_network(rounding="int8")
