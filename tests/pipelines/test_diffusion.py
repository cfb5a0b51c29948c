"""The pipeline: images that depend on their index alone, from one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marble.conditioning import Identity, Labels, Unconditional
from marble.diffusion import linear, rectified_flow, rescale_zero_terminal_snr
from marble.errors import InputError
from marble.models import UNet
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.sampling import DDIM, ODE, Ancestral, fold_keys, image_keys, karras_sigmas, noise_like

IMAGE = ImageSpec(shape=(8, 8, 1), levels=17)


def pipeline(
    num_classes=None,
    label_dropout=0.0,
    schedule=linear(20),  # noqa: B008
    prediction_type="eps",
    sampler=Ancestral(),  # noqa: B008
    **config,
):
    model = UNet(
        out_channels=1,
        channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_groups=4,
        num_classes=num_classes,
    )
    context = {"label": jnp.zeros(1, jnp.int32)} if num_classes else None
    init = jax.jit(model.init)
    params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), context)["params"]
    # The network's last layer begins at zero: other values, so that the output depends on everything.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = tree.unflatten([x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])
    return DiffusionPipeline(
        model=model,
        params=params,
        schedule=schedule,
        prediction_type=prediction_type,
        codec=Identity(IMAGE),
        sampler=sampler,
        config=SamplingConfig(batch_size=16, **config),
        conditioner=Labels(num_classes, label_dropout) if num_classes else Unconditional(),
    )


def like(pipe, **more):
    """Another pipeline of the same network."""
    same = dict(model=pipe.model, params=pipe.params, schedule=pipe.schedule, codec=Identity(IMAGE))
    return DiffusionPipeline(**same, config=SamplingConfig(batch_size=16), **more)


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def conditional():
    return pipeline(num_classes=3, label_dropout=0.1)


def test_images_are_uint8_at_the_data_s_levels(pipe):
    images = pipe.sample(5)
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert set(np.unique(images)) <= set(np.round(np.arange(17) * 255 / 16).astype(np.uint8))


def test_the_pipeline_s_prediction_works_inside_a_caller_s_program(pipe):
    x_t, t = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.array([0, 7, 19])
    inside = jax.jit(lambda x: pipe.denoise(x, t).x_0)(x_t)
    np.testing.assert_allclose(inside, pipe.denoise(x_t, t).x_0, rtol=1e-5, atol=1e-5)


def test_floats_on_request(pipe):
    floats = pipe.sample(5, as_float=True)
    assert floats.dtype == np.float32 and np.abs(floats).max() <= 1
    np.testing.assert_array_equal(np.round(np.round((floats + 1) * 8) * 255 / 16), pipe.sample(5))


def test_image_i_is_the_same_in_any_number_from_any_start(pipe):
    many = pipe.sample(40, seed=3)
    np.testing.assert_array_equal(pipe.sample(1, seed=3), many[:1])
    np.testing.assert_array_equal(pipe.sample(9, seed=3, first=30), many[30:39])
    assert not np.array_equal(pipe.sample(40, seed=4), many)


def test_image_i_hardly_changes_with_the_batch_size(pipe):
    floats = pipe.sample(24, as_float=True)
    np.testing.assert_allclose(pipe.sample(24, as_float=True, batch_size=8), floats, atol=2e-3)


def traced(pipe, monkeypatch):
    """A list that grows when the network is traced, as for every program that has it."""
    traces, apply = [], pipe.apply
    monkeypatch.setattr(pipe, "apply", lambda *inputs: traces.append(inputs) or apply(*inputs))
    return traces


def test_a_second_call_compiles_nothing(pipe, monkeypatch):
    pipe.sample(3)
    traces = traced(pipe, monkeypatch)
    for options in ({}, {"seed": 9}, {"steps": 4}, {"first": 100}):
        pipe.sample(20, **options)
    assert traces == []
    pipe.sample(3, batch_size=40)
    assert traces


def test_other_parameters_without_another_program(pipe, monkeypatch):
    pipe.sample(4)
    traces = traced(pipe, monkeypatch)
    doubled = jax.tree.map(lambda x: 2 * x, pipe.params)
    assert not np.array_equal(pipe.sample(4, params=doubled), pipe.sample(4))
    assert traces == []


def test_frames_end_at_the_images(pipe):
    images, frames = pipe.sample(18, num_frames=5)
    assert frames.x.shape == frames.x_0.shape == (5, 18, 8, 8, 1) and frames.x.dtype == np.uint8
    np.testing.assert_array_equal(frames.x[-1], images)
    np.testing.assert_array_equal(images, pipe.sample(18))
    assert pipe.sample(2, steps=3, num_frames=50)[1].x.shape[0] == 3


def test_a_progress_bar_changes_no_image(pipe, capsys):
    np.testing.assert_array_equal(pipe.sample(4, progress=True), pipe.sample(4))


def test_denoise_is_the_network_read_both_ways(pipe):
    x_t = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    t = np.array([0, 7, 19])
    prediction = pipe.denoise(x_t, t)
    np.testing.assert_allclose(prediction.eps, pipe.apply(pipe.params, x_t, t), atol=1e-5)
    alpha, sigma = (table[t].reshape(3, 1, 1, 1) for table in (pipe.schedule.alpha, pipe.schedule.sigma))
    np.testing.assert_allclose(alpha * prediction.x_0 + sigma * prediction.eps, x_t, atol=1e-5)
    np.testing.assert_allclose(pipe.denoise(x_t, 7).eps[1], prediction.eps[1], atol=1e-5)


@pytest.mark.parametrize("t", [-1, 20, 0.5, np.array([0, 1, 20])])
def test_t_out_of_range_is_refused(pipe, t):
    with pytest.raises(InputError, match="between 0 and 19"):
        pipe.denoise(np.zeros((3, 8, 8, 1), np.float32), t)


def test_numpy_s_integers_are_whole_numbers(pipe):
    np.testing.assert_array_equal(pipe.sample(np.int64(2), seed=np.uint32(3)), pipe.sample(2, seed=3))


@pytest.mark.parametrize(
    ("x_t", "t", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), 0, r"x_t of shape \[2, 8, 8, 3\] must be \[b, 8, 8, 1\]"),
        (np.zeros((2, 8, 8, 1), np.float32), [1, 2, 3], r"t of shape \[3\] must be one step"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(pipe, x_t, t, message):
    with pytest.raises(InputError, match=message):
        pipe.denoise(x_t, t)


def test_denoise_takes_the_labels_that_sample_takes(conditional):
    x_t = np.zeros((2, 8, 8, 1), np.float32)
    null = conditional.denoise(x_t, 3)
    np.testing.assert_array_equal(conditional.denoise(x_t, 3, {"label": np.array([3, 3])}).eps, null.eps)
    assert not np.allclose(conditional.denoise(x_t, 3, {"label": 1}).eps, null.eps)
    with pytest.raises(InputError, match="not a class"):
        conditional.denoise(x_t, 3, {"label": np.array([4, 0])})
    with pytest.raises(InputError, match="trained with labels only"):
        pipeline(num_classes=3).denoise(x_t, 3)


def test_labels_choose_the_class(conditional):
    ones, mixed = conditional.sample(3, labels=1), conditional.sample(3, labels=[0, 1, 2])
    np.testing.assert_array_equal(ones[1], mixed[1])
    assert not np.array_equal(ones[0], mixed[0])
    assert not np.array_equal(conditional.sample(3), ones)  # the null class


def test_guidance_goes_from_no_label_to_the_label_and_on(conditional, monkeypatch):
    def floats(**options):
        return conditional.sample(3, as_float=True, **options)

    plain = floats(labels=1)
    traces = traced(conditional, monkeypatch)
    np.testing.assert_allclose(floats(labels=1, guidance_scale=0.0), floats(), atol=1e-4)
    strong = floats(labels=1, guidance_scale=4.0)
    assert np.abs(strong - plain).max() > 0.05
    nowhere = (1e6, 2e6)  # noisier than any level
    np.testing.assert_array_equal(floats(labels=1, guidance_scale=4.0, guidance_interval=nowhere), plain)
    assert np.abs(floats(labels=1, guidance_scale=4.0, guidance_rescale=1.0) - strong).max() > 1e-3
    assert traces == []


def test_eta_is_a_number_of_the_one_program(pipe, monkeypatch):
    ddim = like(pipe, sampler=DDIM())
    still, traces = ddim.sample(4, eta=0.0, as_float=True), traced(ddim, monkeypatch)
    drawn = ddim.sample(4, eta=1.0, as_float=True)
    np.testing.assert_array_equal(still, ddim.sample(4, as_float=True))
    assert np.abs(still - drawn).max() > 0.05
    assert traces == []
    with pytest.raises(InputError, match="eta=1.5 must be between 0 and 1"):
        ddim.sample(4, eta=1.5)
    with pytest.raises(InputError, match="the sampler Ancestral has none"):
        pipe.sample(4, eta=0.5)


def test_a_guide_is_gone_away_from(pipe):
    def guided_by(params):
        guide = DiffusionPipeline(**{**options, "params": params})
        return DiffusionPipeline(**options, guide=guide).sample(3, as_float=True, guidance_scale=3.0)

    options = dict(
        model=pipe.model,
        params=pipe.params,
        schedule=pipe.schedule,
        codec=Identity(IMAGE),
        sampler=Ancestral(),
        config=SamplingConfig(batch_size=16),
    )
    plain = pipe.sample(3, as_float=True)
    np.testing.assert_allclose(guided_by(pipe.params), plain, atol=1e-4)  # from the model to itself is no way
    assert np.abs(guided_by(jax.tree.map(lambda x: 0.9 * x, pipe.params)) - plain).max() > 0.01
    with pytest.raises(InputError, match="guide's images and number of steps"):
        DiffusionPipeline(**{**options, "schedule": linear(30)}, guide=pipe)
    with pytest.raises(InputError, match="a guide is a diffusion model: this one is a str"):
        DiffusionPipeline(**options, guide="another")


def test_what_only_guidance_away_from_no_context_reads_is_refused_beside_a_guide(pipe, monkeypatch):
    monkeypatch.setattr(Unconditional, "requests", ("dull",))
    monkeypatch.setattr(Unconditional, "against", ("dull",))
    guided = like(pipe, sampler=Ancestral(), guide=pipe)
    with pytest.raises(InputError, match="dull is for guidance without a guide"):
        guided.guidance({"dull": "yes"}, 2.0)
    guided.guidance({"dull": None}, 2.0)
    pipe.guidance({"dull": "yes"}, 1.0)


def test_guidance_where_no_image_is_left():
    # At the first level alpha is 0: a prediction of v says all, and of eps nothing of the image.
    schedule = rescale_zero_terminal_snr(linear(20))
    pipe = pipeline(num_classes=3, label_dropout=0.1, schedule=schedule, prediction_type="v")
    plain = pipe.sample(2, labels=1, as_float=True)
    assert np.isfinite(plain).all()
    strong = pipe.sample(2, labels=1, guidance_scale=4.0, guidance_rescale=0.7, as_float=True)
    assert np.isfinite(strong).all() and np.abs(strong - plain).max() > 1e-3


def test_the_grid_s_settings_are_the_config_s():
    pipe = pipeline(timestep_spacing="karras", sigma_min=0.05, sigma_max=10.0, rho=5.0)
    grid = pipe.grid(7)
    np.testing.assert_allclose((grid.sigma / grid.alpha)[:7], karras_sigmas(7, 0.05, 10.0, 5.0), rtol=1e-4)
    np.testing.assert_array_equal(pipeline(timestep_spacing="leading", steps_offset=1).grid(4).t[:4], [16, 11, 6, 1])


def test_eps_can_be_derived_again_from_the_clipped_x_0():
    def drawn(**config):
        return pipeline(sampler=DDIM(), **config).sample(3, as_float=True)

    assert np.abs(drawn() - drawn(use_clipped_model_output=True)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": 2.0}, "needs a label"),
        ({"guidance_scale": float("nan"), "labels": 1}, "guidance_scale=nan must be a number below"),
        ({"guidance_interval": (2.0, 1.0)}, "guidance_interval=.2.0, 1.0. must be two"),
        ({"guidance_rescale": 1.5}, "guidance_rescale=1.5 must be between 0 and 1"),
    ],
)
def test_impossible_guidance_is_refused(conditional, options, message):
    with pytest.raises(InputError, match=message):
        conditional.sample(2, **options)


def test_guidance_needs_a_conditional_model(pipe):
    with pytest.raises(InputError, match="guidance_scale=2 needs a model that was trained with and without labels"):
        pipe.sample(2, guidance_scale=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "0 images"),
        ({"num": 10**14}, "100000000000000 images asked for: give at least 1, and fewer than 4294967296"),
        ({"num": 4, "steps": 21}, "21 sampling steps: .* 1 and 20"),
        ({"num": 4, "steps": 0}, "0 sampling steps"),
        ({"num": 4, "labels": 1}, "trained without labels"),
        ({"num": 4, "seed": -1}, "seed=-1"),
        ({"num": 4, "first": 2**32}, "first=4294967296"),
        ({"num": 4, "batch_size": 0}, "batch_size=0"),
        ({"num": True}, "num=True must be a whole number"),
        ({"num": 2.5}, "num=2.5 must be a whole number"),
        ({"num": 4, "seed": "a"}, "seed='a' must be a whole number"),
        ({"num": 4, "steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"num": 4, "first": 1.5}, "first=1.5 must be a whole number"),
        ({"num": 4, "num_frames": -1}, "num_frames=-1 must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(pipe, options, message):
    with pytest.raises(InputError, match=message):
        pipe.sample(**options)


def test_labels_out_of_range_are_refused(conditional):
    for labels, message in (
        (3, "not a class between 0 and 2"),
        (-1, "not a class"),
        (0.5, "not a class"),
        ([0, 1], "2 labels for 3 images"),
    ):
        with pytest.raises(InputError, match=message):
            conditional.sample(3, labels=labels)
    with pytest.raises(InputError, match="trained with labels only"):
        pipeline(num_classes=3).sample(3)


def test_a_schedule_in_continuous_time_and_another_prediction():
    # The schedule as a function of the parameters, as a learned one is.
    pipe = pipeline(schedule=lambda params: rectified_flow(), prediction_type="flow")
    assert pipe.sample(3, steps=4).shape == (3, 8, 8, 1)
    x_t, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([0.2, 0.7])
    prediction, level = pipe.denoise(x_t, t), pipe.schedule.level(t)
    output = pipe.apply(pipe.params, x_t, level.t)
    np.testing.assert_allclose(prediction.eps - prediction.x_0, output, atol=1e-4)
    with pytest.raises(InputError, match="give steps, or set sampling.num_steps"):
        pipe.sample(3)


def test_a_misspelt_option_is_told_the_right_one(pipe, conditional):
    for request, meant in ({"step": 5}, "steps"), ({"guidance": 2.0}, "guidance_scale"), ({"label": 1}, "labels"):
        with pytest.raises(InputError, match=f"is no option; did you mean {meant}"):
            conditional.sample(2, **request)
    with pytest.raises(InputError, match="text='a cat' given, but this model was trained without text"):
        pipe.sample(2, text="a cat")


def test_another_sampler_by_name_or_itself_is_compiled_once(pipe, monkeypatch):
    named = like(pipe, sampler=Ancestral(), named_sampler={"ddim": DDIM(), "half": DDIM(eta=0.5)}.__getitem__)
    own = pipe.sample(3, as_float=True)
    by_name = named.sample(3, sampler="ddim", as_float=True)
    ddim = DDIM()
    np.testing.assert_array_equal(by_name, named.sample(3, sampler=ddim, as_float=True))
    np.testing.assert_array_equal(own, named.sample(3, as_float=True))
    assert np.abs(by_name - own).max() > 0.05
    traces = traced(named, monkeypatch)
    named.sample(5, sampler="ddim", seed=3)
    named.sample(5, sampler=ddim, steps=3)
    named.sample(5)
    assert traces == []
    named.sample(5, sampler="half")
    assert traces
    for no_sampler in (5, DDIM):
        with pytest.raises(InputError, match="is neither a name nor a sampler"):
            pipe.sample(3, sampler=no_sampler)
    with pytest.raises(InputError, match="sampler='ddim' given, but this pipeline knows no names"):
        pipe.sample(3, sampler="ddim")


def test_given_noise_takes_the_place_of_what_is_drawn(pipe):
    keys = image_keys(7, jnp.arange(20))
    drawn = np.asarray(noise_like(fold_keys(keys, 0), jnp.zeros((20, 8, 8, 1))))
    np.testing.assert_array_equal(
        pipe.sample(20, seed=7, noise=drawn, as_float=True), pipe.sample(20, seed=7, as_float=True)
    )
    assert not np.array_equal(
        pipe.sample(20, seed=7, noise=-drawn, as_float=True), pipe.sample(20, seed=7, as_float=True)
    )
    for noise, message in (
        (drawn[:3], r"noise of shape \[3, 8, 8, 1\]: give one of \[20, 8, 8, 1\]"),
        (drawn.astype(int), "noise of int64"),
        (np.full_like(drawn, np.inf), "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.sample(20, noise=noise)


@pytest.mark.slow
def test_images_come_back_from_their_noise_by_the_adaptive_ode(conditional):
    images = conditional.sample(20, labels=1)
    x_T = conditional.invert(images, labels=1, steps=20)
    assert x_T.shape == images.shape and x_T.dtype == np.float32
    back = conditional.sample(20, labels=1, noise=x_T, sampler=ODE(conditional.schedule, rtol=1e-5, atol=1e-5))
    inside = (images > 0) & (images < 255)  # what was clipped has no one noise
    assert np.abs(back.astype(int) - images)[inside].max() <= 16  # one of the 17 levels
    np.testing.assert_allclose(conditional.invert(images[3:5], labels=1), x_T[3:5], atol=1e-3)
    with pytest.raises(InputError, match="images of shape"):
        conditional.invert(images[:, :4])
    for tolerance in (0, -1, np.nan):
        with pytest.raises(InputError, match="must be above 0"):
            conditional.invert(images, tolerance=tolerance)
