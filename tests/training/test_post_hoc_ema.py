"""Averages of any length: the paper's formulas in float64, and a run of updates averaged exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import assert_same_run
from scipy.integrate import quad

import marble
from marble import checkpoint, run
from marble.cli.main import main
from marble.cli.train import configured
from marble.errors import InputError
from marble.training import post_hoc_ema
from marble.training.post_hoc_ema import LENGTHS, Snapshots, combination, gamma_of, inner_product, length_of
from marble.training.step import power_averaged


def profile(u, t, gamma):
    return (gamma + 1) * u**gamma / t ** (gamma + 1) * (u <= t)


def test_a_length_is_the_deviation_of_the_weights():
    for gamma in (0.0, 1.0, 6.94, 16.97):
        mean, square = (quad(lambda u, k=k, g=gamma: u**k * profile(u, 1.0, g), 0, 1)[0] for k in (1, 2))
        np.testing.assert_allclose(length_of(gamma), np.sqrt(square - mean**2), rtol=1e-9)
        np.testing.assert_allclose(gamma_of(length_of(gamma)), gamma, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose([gamma_of(0.05), gamma_of(0.1)], [16.97, 6.94], atol=5e-3)  # the paper's two


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, float("nan")])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(InputError, match=f"an average of length {length}: give a number above 0 and at most 0.2887"):
        gamma_of(length)


@pytest.mark.parametrize("gamma", [0.0, 6.94, 16.97])
def test_updates_are_the_integral_over_parameters_that_stand_still_between_them(gamma):
    values = np.random.default_rng(0).normal(size=40)
    with jax.enable_x64(True):
        average = jnp.float64(1e6)
        for step, value in enumerate(values):
            share = 1 - (1 - 1 / (step + 1)) ** (gamma + 1)
            np.testing.assert_allclose(post_hoc_ema.power_share(jnp.int32(step), gamma), share, rtol=1e-6)
            average = (1 - share) * average + share * value
    ends = np.arange(41.0)
    exact = np.diff((ends / 40) ** (gamma + 1)) @ values
    np.testing.assert_allclose(average, exact, rtol=1e-12)


def test_inner_products_are_integrals():
    for t_a, gamma_a, t_b, gamma_b in ((10.0, 3.0, 10.0, 3.0), (7.0, 16.97, 10.0, 6.94), (10.0, 0.0, 3.0, 2.5)):
        product = lambda u, a=(t_a, gamma_a), b=(t_b, gamma_b): profile(u, *a) * profile(u, *b)  # noqa: E731
        expected = quad(product, 0, min(t_a, t_b), epsabs=1e-13)[0]
        np.testing.assert_allclose(inner_product(t_a, gamma_a, t_b, gamma_b), expected, rtol=1e-9)
    assert np.isfinite(inner_product(800_000, 16.97, 10, 16.97))


def test_what_is_stored_is_its_own_best_combination():
    steps = np.array([100, 200, 300, 400])
    for i, length in enumerate(LENGTHS):
        found = combination(steps, length, 300)
        expected = np.zeros((4, 2))
        expected[2, i] = 1
        np.testing.assert_allclose(found.weights, expected, atol=1e-6)
        assert found.error < 1e-6


NUM_STEPS, EVERY = 320, 20


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """(workdir, parameters of each update [t n]) of a walk that slows down, as a training does, and was stopped."""
    workdir = str(tmp_path_factory.mktemp("run"))
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(size=(NUM_STEPS, 50)) / np.sqrt(1 + np.arange(NUM_STEPS))[:, None], axis=0) + 3
    averages = tuple({"w": jnp.full(50, 1e6, jnp.float32)} for _ in LENGTHS)
    update, snapshots = jax.jit(power_averaged), Snapshots(workdir, 0, EVERY, NUM_STEPS)
    for step, params in enumerate(path):
        averages = update(averages, {"w": jnp.asarray(params, jnp.float32)}, jnp.int32(step))
        if snapshots.is_due(step + 1):
            snapshots.save(step + 1, averages)
    snapshots.close()
    return workdir, path


def exact(path, length):
    """The average of that length, of parameters that stand still between updates."""
    ends = np.arange(len(path) + 1) / len(path)
    return np.diff(ends ** (gamma_of(length) + 1)) @ path


SHAPES = {"w": jax.ShapeDtypeStruct((50,), jnp.float32)}


@pytest.mark.parametrize("length", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2])
@pytest.mark.parametrize("step", [None, 240])
def test_any_length_is_the_exact_average(walk, length, step):
    workdir, path = walk
    at, found = post_hoc_ema.reconstruct(workdir, length, SHAPES, step=step)
    expected = exact(path[:step], length)
    assert at == (step or NUM_STEPS) and found["w"].dtype == np.float32
    assert np.linalg.norm(found["w"] - expected) <= 1e-2 * np.linalg.norm(expected)
    # And it is no other length that does.
    assert np.linalg.norm(found["w"] - expected) < 0.2 * np.linalg.norm(exact(path[:step], length / 2) - expected)


def test_what_can_not_be_put_together_is_refused(walk, tmp_path):
    workdir, _ = walk
    for length, step, message in (
        (0.002, None, "an average of length 0.002 at step 320 of .*: what is stored gives lengths from 0.0"),
        (0.1, 10, "has averages of steps 20 to 320, and none of step 10"),
        (0.1, 330, "has averages of steps 20 to 320, and none of step 330"),
        (0.5, None, "at most 0.2887"),
    ):
        with pytest.raises(InputError, match=message):
            post_hoc_ema.reconstruct(workdir, length, SHAPES, step=step)
    with pytest.raises(InputError, match="no stored averages to make one of length 0.1 from: train with training.post"):
        post_hoc_ema.reconstruct(str(tmp_path), 0.1, SHAPES)


def test_a_run_that_goes_on_from_before_stores_its_own(tmp_path):
    averages = lambda value: tuple({"w": jnp.full(2, value)} for _ in LENGTHS)  # noqa: E731
    for start, value in ((0, 1.0), (5, 2.0)):
        snapshots = Snapshots(str(tmp_path), start, 5, 100)
        for step in range(start, 16 if start == 0 else 11):
            if snapshots.is_due(step):
                snapshots.save(step, averages(value))
        snapshots.close()
    folder = f"{tmp_path}/{post_hoc_ema.FOLDER}"
    assert sorted(checkpoint.saved_steps(folder)) == [5, 10]
    kept = [checkpoint.restore(folder, s, {"averages": (SHAPES2,) * 2})["averages"][0]["w"][0] for s in (5, 10)]
    assert kept == [1.0, 2.0]


SHAPES2 = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}


def trained(folder, num_steps):
    words = ["model.channel_mult=(1,)", "training.post_hoc_ema=True", "training.ema_snapshot_every=2"]
    words += ["training.log_every=1", f"training.num_steps={num_steps}", "training.sample_every=0"]
    return run.run(configured("digits:smoke", [f"--config.{word}" for word in words]), str(folder))


@pytest.mark.slow
def test_a_run_stores_averages_and_one_that_went_on_the_same_ones(tmp_path):
    state = trained(tmp_path / "whole", 5)
    trained(tmp_path / "part", 3)
    trained(tmp_path / "part", 5)
    assert_same_run(tmp_path / "whole", tmp_path / "part")
    found = {}
    for name in ("whole", "part"):
        pipe = marble.load(str(tmp_path / name), ema_length=LENGTHS[1])
        for own, kept in zip(*map(jax.tree.leaves, (pipe.params, state.power_averages[1])), strict=True):
            np.testing.assert_allclose(own, kept, rtol=1e-5, atol=1e-7)
        found[name] = post_hoc_ema.reconstruct(str(tmp_path / name), 0.1, pipe.params, step=4)
    assert found["whole"][0] == 4
    jax.tree.map(np.testing.assert_array_equal, found["whole"][1], found["part"][1])
    with pytest.raises(InputError, match="raw_params and ema_length=0.1 are two kinds of parameters"):
        marble.load(str(tmp_path / "whole"), ema_length=0.1, raw_params=True)
    words = ["sample", "--workdir", str(tmp_path / "whole"), "--num", "2", "--ema_length", "0.08"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
