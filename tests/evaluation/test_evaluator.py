"""Evaluators, with networks that NumPy computes too."""

import dataclasses

import numpy as np
import pytest
from features.toy_network import linear_network

from marble import metrics
from marble.errors import InputError
from marble.evaluation import EvaluationOptions, Evaluator, Statistics, differences, of_arrays, read_statistics
from marble.evaluation.evaluator import higher_is_better
from marble.evaluation.judged import METRICS

RNG = np.random.default_rng(0)
IMAGES, OTHERS = (RNG.integers(0, 256, (n, 8, 8, 3), np.uint8) for n in (30, 40))
OTHERS = OTHERS // 2


def features(images):
    """What the linear network says, by NumPy."""
    network = linear_network()
    return ((images.astype(np.float64) - 128) / 64).reshape(len(images), -1) @ network.params["kernel"]


def evaluator(*names, reference=OTHERS, network=None, **options):
    if isinstance(reference, np.ndarray):
        reference = of_arrays(reference, name="others")
    options = EvaluationOptions(metrics=names, **options)
    return Evaluator(options, reference, networks=[network or linear_network()])


def by_name(numbers):
    return {number.name: number for number in numbers}


def test_every_metric_is_that_of_its_function_on_the_network_s_rows():
    found = by_name(evaluator("fd", "is", "kid", "pr", "memorization").numbers(of_arrays(IMAGES)))
    own, other = features(IMAGES), features(OTHERS)
    moments = metrics.Moments.of(other)
    wanted = {
        "FD-linear": metrics.frechet_distance_of_features(own, other),
        "IS-linear": metrics.inception_score(own[:, :2]).mean,
        "KID-linear": metrics.kid(own, other, subset_size=30).mean,
        "precision-linear": metrics.precision_recall(other, own).precision,
        "coverage-linear": metrics.density_coverage(other, own).coverage,
        "copied (pixels)": metrics.memorization(IMAGES, OTHERS).copy_rate,
        "authenticity (linear)": metrics.memorization(own, other).authenticity,
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name].value, value, rtol=1e-4, err_msg=name)
    interval = metrics.frechet_estimate(own, moments.mean, moments.covariance).at_num.interval()
    np.testing.assert_allclose(found["FD-linear"].interval, interval, rtol=1e-4)
    assert found["KID-linear"].interval.low < found["KID-linear"].value < found["KID-linear"].interval.high


def test_intervals_can_be_left_out():
    numbers = evaluator("fd", "kid", "pr", intervals=False).numbers(of_arrays(IMAGES))
    assert len(numbers) == 6 and all(number.interval is None for number in numbers)


def test_the_reference_is_read_once_and_each_image_once():
    reads = {"images": 0, "others": 0}

    def counted(name, images):
        whole = of_arrays(images, name=name)

        def rows(indices):
            reads[name] += len(indices)
            return whole.rows(indices)

        return dataclasses.replace(whole, rows=rows)

    judge = evaluator("fd", "pr", "memorization", reference=counted("others", OTHERS))
    assert reads["others"] == 0
    for _ in range(2):
        judge.numbers(counted("images", IMAGES))
    assert reads == {"images": 60, "others": 40}


def test_a_set_is_at_distance_0_of_itself_and_copies_are_found():
    judge = evaluator("fd", "memorization", reference=IMAGES)
    found = by_name(judge.numbers(of_arrays(IMAGES)))
    assert found["FD-linear"].value < 1e-6
    assert found["copied (pixels)"].value == found["copied (linear)"].value == 1
    assert found["authenticity (pixels)"].value == found["duplicates (pixels)"].value == 0
    twice = by_name(judge.numbers(of_arrays(np.concatenate([IMAGES[:3], IMAGES[:3]]))))
    assert twice["duplicates (pixels)"].value == 1


def test_pairs_are_compared_in_their_order():
    noisy = np.clip(IMAGES + RNG.normal(0, 10, IMAGES.shape), 0, 255).astype(np.uint8)
    found = by_name(evaluator("psnr", reference=IMAGES).numbers(of_arrays(noisy)))
    error = ((noisy.astype(float) - IMAGES) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found["PSNR"].value, (10 * np.log10(255**2 / error)).mean(), rtol=1e-9)
    assert by_name(evaluator("psnr", reference=IMAGES).numbers(of_arrays(IMAGES)))["PSNR"].value == np.inf


def test_the_stamp_says_with_what():
    (number,) = evaluator("fd").numbers(of_arrays(IMAGES), command="a command")
    stamp = number.stamp
    assert stamp.features == {"network": "linear", "weights": "0", "resize": "torch_fidelity", "rounding": "uint8"}
    assert (stamp.images["num"], stamp.images["size"]) == (30, "8x8x3")
    assert (stamp.reference["source"], stamp.reference["num"]) == ("others", 40)
    assert len(stamp.reference["hash"]) == 16 and stamp.reference["hash"] != stamp.images["hash"]
    assert stamp.command == "a command" and set(stamp.versions) == {"marble", "jax", "numpy"}


def test_statistics_stand_in_for_the_images_they_are_of(tmp_path):
    judge = evaluator("fd")
    (wanted,) = judge.numbers(of_arrays(IMAGES))
    judge.write_statistics(tmp_path / "others.npz")
    by_file = evaluator("fd", reference=read_statistics(tmp_path / "others.npz"))
    (found,) = by_file.numbers(of_arrays(IMAGES))
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-9)
    assert found.stamp.reference == wanted.stamp.reference
    with pytest.raises(InputError, match="kid needs the reference's images, and .* has statistics alone"):
        evaluator("kid", reference=read_statistics(tmp_path / "others.npz"))
    with pytest.raises(InputError, match="is of weights 0, and the images are judged with 1"):
        evaluator("fd", reference=read_statistics(tmp_path / "others.npz"), network=linear_network(weights_hash="1"))
    with pytest.raises(InputError, match="statistics are of one network and a reference's images"):
        by_file.write_statistics(tmp_path / "again.npz")


def test_statistics_of_another_dimension_are_refused():
    small = Statistics("small.npz", {"features": (np.zeros(3), np.eye(3))}, "0", {}, {})
    with pytest.raises(InputError, match="features have 5 dimensions and the reference 3"):
        evaluator("fd", reference=small).numbers(of_arrays(IMAGES))


def test_the_nearest_to_the_reference_are_shown_of_all():
    judge = evaluator("memorization", reference=IMAGES)
    copied = np.concatenate([OTHERS, IMAGES[5:9]])
    near = judge.neighbours(judge.collected(of_arrays(copied)), num=4)
    assert [found.space for found in near] == ["pixels", "linear"]
    for found in near:
        assert {image.tobytes() for image in found.generated} == {image.tobytes() for image in IMAGES[5:9]}
        np.testing.assert_array_equal(found.nearest[:, 0], found.generated)
        assert (
            found.nearest.shape == (4, 3, 8, 8, 3) and found.distances[:, 0].max() < 1e-3 < found.distances[:, 1:].min()
        )


@pytest.mark.parametrize(
    ("names", "reference", "images", "message"),
    [
        (["fidd"], OTHERS, IMAGES, "metric 'fidd' is unknown; did you mean 'fd'"),
        (["fd"], None, IMAGES, "metric fd needs a reference: give --reference"),
        (["sfd"], OTHERS, IMAGES, "metric sfd needs features of a network with spatial"),
        (["clip"], OTHERS, IMAGES, "metric clip needs features of clip:PATH"),
        (["fd"], OTHERS[..., :1], IMAGES, "arrays is RGB and others is grey: convert one of them"),
        (["psnr"], OTHERS[:30, :4], IMAGES, "arrays of 8x8 and others of 4x8: give --image_size"),
        (["psnr"], OTHERS, IMAGES, "arrays has 30, others 40: give as many"),
        (["fd"], OTHERS, IMAGES[:1], "features are 1, and 2 is the least"),
        (["pr"], OTHERS, IMAGES[:3], "the generated images are 3, and 4 is the least"),
    ],
)
def test_what_can_t_be_measured_is_told_in_one_line(names, reference, images, message):
    with pytest.raises(InputError, match=message) as raised:
        evaluator(*names, reference=reference).numbers(of_arrays(images))
    assert "\n" not in str(raised.value)


def test_features_that_are_not_finite_are_named():
    network = linear_network()
    broken = {"kernel": np.where(network.params["kernel"] > 2, np.inf, network.params["kernel"])}
    with pytest.raises(InputError, match="arrays: the features of linear of image 0 are not finite"):
        evaluator("fd", network=dataclasses.replace(network, params=broken)).numbers(of_arrays(IMAGES))


def test_constant_images_have_a_distance():
    constant = np.full((5, 8, 8, 3), 9, np.uint8)
    (number,) = evaluator("fd").numbers(of_arrays(constant))
    moments = metrics.Moments.of(features(OTHERS))
    gap = features(constant)[0] - moments.mean
    np.testing.assert_allclose(number.value, gap @ gap + np.trace(moments.covariance), rtol=1e-4)


def test_every_metric_says_what_is_better():
    assert {name for name in METRICS if higher_is_better(name)} == {"is", "pr", "clip", "psnr", "ssim"}


def test_samples_that_are_not_rounded_are_compared_with_8_bits_by_their_levels():
    """Copies as floats in [-1, 1] are copies; a level apart, they have the PSNR of one level."""

    def floats(images):
        scaled = images / np.float32(127.5) - 1
        return dataclasses.replace(of_arrays(images), rows=lambda indices: scaled[indices])

    network = linear_network(rounding="float")
    found = by_name(evaluator("memorization", network=network).numbers(floats(OTHERS[:20])))
    assert found["copied (pixels)"].value == found["copied (linear)"].value == 1
    judge = evaluator("psnr", network=network, reference=np.clip(OTHERS, 1, 255))
    (number,) = judge.numbers(floats(np.clip(OTHERS, 1, 255) - 1))
    np.testing.assert_allclose(number.value, 20 * np.log10(255), rtol=1e-4)


def test_what_was_found_beside_a_number_is_no_protocol():
    one, other = (by_name(evaluator("kid", "is").numbers(of_arrays(images))) for images in (IMAGES, IMAGES[::-1] // 2))
    for name in ("KID-linear", "IS-linear"):
        stamps = one[name].stamp.as_dict(), other[name].stamp.as_dict()
        assert stamps[0]["settings"] != stamps[1]["settings"] and differences(*stamps) == []


def test_one_name_is_one_network_s():
    with pytest.raises(InputError, match="features linear, linear: two have one name"):
        Evaluator(EvaluationOptions(), of_arrays(OTHERS), networks=[linear_network(), linear_network()])


def test_images_that_are_all_the_same_are_told_of(caplog):
    evaluator("pr").numbers(of_arrays(np.repeat(IMAGES[:1], 9, axis=0), name="collapsed"))
    assert "collapsed: all 9 images are the same, so that numbers of them say little" in caplog.text
    assert "others" not in caplog.text
