"""The plan of a config, against what can be counted without a compiler."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
import small_pipelines

from marble import builders, plan
from marble import planned as planned_module
from marble import workdir as workdirs
from marble.config import load_config
from marble.conversion import convert
from marble.convert import files
from marble.convert.unread import unread
from marble.data.declared import declared
from marble.errors import InputError
from marble.loading import load, recalled
from marble.parallel import ParallelConfig
from marble.parallel.program import Figures
from marble.pipelines import ImageSpec
from marble.pipelines.settings import traced_settings
from marble.run import make_train_step_of


def config_of(name="digits:smoke", **sections):
    """One level, for on the CPU upsampling is another program, whose gradients are larger than its parameters."""
    config = load_config(name)
    config.model.channel_mult = (1,)
    for section, values in sections.items():
        config[section] = {**config.get(section, {}), **values}
    return builders.complete(config)


def planned(config, count=8, **options):
    return plan.plan(config, jax.devices()[:count], **options)


@pytest.fixture(scope="module")
def replicated():
    return planned(config_of())


@pytest.fixture(scope="module")
def split():
    return planned(config_of(parallel={"sharding": "fsdp", "fsdp_min_size": 64}))


def test_data_parallel_sums_four_bytes_a_parameter(replicated):
    train, sample = replicated.parts
    assert set(train.figures.collectives) == {"all-reduce"}
    assert train.figures.collectives["all-reduce"] == pytest.approx(4 * replicated.num_parameters, rel=0.01)
    assert sample.figures.collectives == {}


def test_split_parameters_are_gathered(split):
    """Each that is split is gathered for the gradient, and each gradient summed, whole or scattered."""
    train, sample = split.parts
    share = sum(leaf.size for leaf in split_leaves()) * 4
    assert train.figures.collectives["all-gather"] >= 0.99 * share
    assert sample.figures.collectives["all-gather"] == pytest.approx(share, rel=0.01)
    summed = sum(train.figures.collectives.get(kind, 0) for kind in ("all-reduce", "reduce-scatter"))
    assert summed >= 0.99 * 4 * split.num_parameters


def split_leaves():
    experiment = builders.build(config_of(), ImageSpec((8, 8, 1), 17))
    leaves = jax.tree.leaves(jax.eval_shape(experiment.init_params))
    return [leaf for leaf in leaves if leaf.size >= 64 and any(length % 8 == 0 for length in leaf.shape)]


def test_state_is_the_sum_of_its_arrays(replicated, split):
    experiment = builders.build(config_of(), ImageSpec((8, 8, 1), 17))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(experiment.init_state()))
    in_parts = sum(leaf.size for leaf in split_leaves()) * 4
    count = replicated.num_parameters
    assert count == sum(leaf.size for leaf in jax.tree.leaves(experiment.init_params()))
    for made, gone in ((replicated, 0), (split, in_parts * 7 // 8)):
        train, sample = made.parts
        assert train.parameters == sample.parameters == sample.state == 4 * count - gone
        assert train.state == whole - 4 * gone  # parameters, their average, two moments
    batch = 8 * 8 + 4 + 4  # one image, its index and label
    key = 8
    assert replicated.parts[0].figures.arguments == pytest.approx(whole + batch + key, abs=64)


def conv_positions(eqn):
    """Of each axis of an image: how many products of a kernel's element with an element that is there."""
    p, lhs, rhs = eqn.params, *(v.aval.shape for v in eqn.invars)
    numbers, total = p["dimension_numbers"], 1
    for axis, (low, _) in enumerate(p["padding"]):
        length, kernel = lhs[numbers.lhs_spec[2 + axis]], rhs[numbers.rhs_spec[2 + axis]]
        out = eqn.outvars[0].aval.shape[numbers.out_spec[2 + axis]]
        o, k = np.arange(out)[:, None], np.arange(kernel)[None]
        at = o * p["window_strides"][axis] + k * p["rhs_dilation"][axis] - low
        step = p["lhs_dilation"][axis]
        total *= int(((at >= 0) & (at <= (length - 1) * step) & (at % step == 0)).sum())
    return total


def products(jaxpr):
    """Twice the multiplications of all convolutions and matrix products of a jaxpr."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            numbers, rhs = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
            out, groups = eqn.outvars[0].aval.shape, eqn.params["batch_group_count"]
            channels = out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
            total += 2 * out[numbers.out_spec[0]] * channels * conv_positions(eqn) // groups
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            length = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * eqn.outvars[0].aval.size * length
        # What depends on the platform is a conditional, and the CPU's form its first branch.
        params = eqn.params["branches"][0] if eqn.primitive.name == "cond" else eqn.params
        for value in jax.tree.leaves(params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            total += products(inner) * eqn.params.get("length", 1) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.slow
def test_operations_are_the_networks_and_little_more():
    """XLA counts the elementwise work too, and every device's update of the parameters."""
    config = config_of(model={"channels": 64, "num_groups": 32}, training={"batch_size": 64})
    experiment = builders.build(config, ImageSpec((8, 8, 1), 17))
    mapping = ParallelConfig().open(jax.devices())
    batch = plan.batch_shapes(experiment, declared("digits"), mapping)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    state, key = jax.eval_shape(experiment.init_state), jax.eval_shape(lambda: jax.random.key(0))
    counted = products(jax.make_jaxpr(make_train_step_of(experiment, mapping))(state, one, key).jaxpr)
    found = planned(config, sampler=False).to_dict()["train"]
    assert found["flops_per_image"] * 64 == found["flops_per_step"]
    assert counted < found["flops_per_step"] < 1.1 * counted


def fake(monkeypatch, figures):
    """Programs are lowered, and then said to need this."""
    lowered = []

    def figures_of(program, devices, cache):
        lowered.append(program)
        return figures

    monkeypatch.setattr(plan, "figures_of", figures_of)
    return lowered


SMALL = Figures(arguments=4, outputs=3, temporaries=2, code=1, flops=80.0, collectives={"all-reduce": 5})


@pytest.mark.parametrize(
    ("name", "sections", "steps"),
    [
        ("digits:smoke", {"model": {"num_classes": 10}}, 10),
        ("digits:smoke", {"sampling": {"sampler": "ddim", "num_steps": 7}}, 7),
        (
            "cifar10:smoke",
            {
                "diffusion": {"beta_schedule": "learned_monotone", "weighting": "elbo"},
                "sampling": {"num_steps": 4},
                "training": {"accumulate": 1},
            },
            4,
        ),
    ],
)
def test_every_kind_of_model_is_planned(monkeypatch, name, sections, steps):
    config = load_config(name)
    for section in ("diffusion", "sampling"):
        config[section] = {} if section in sections else config[section]
    for section, values in sections.items():
        config[section].update(values)
    config.sampling.batch_size = 3
    lowered = fake(monkeypatch, SMALL)
    made = planned(builders.complete(config)).to_dict()
    assert len(lowered) == 2
    assert (made["sample"]["steps"], made["sample"]["images"], made["train"]["images"]) == (steps, 8, 8)


def test_the_sampler_that_is_planned_is_the_one_that_samples():
    experiment = builders.build(config_of(), ImageSpec((8, 8, 1), 17))
    pipe = experiment.pipeline(experiment.init_params())
    compiled = pipe.lower(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pipe.params)).compile()
    batch = pipe.mapping.put(pipe.rows(8, seed=5))
    settings = pipe.grid(pipe.num_steps()), np.int32(pipe.num_steps()), pipe.guidance(), {}
    images, frames = compiled(pipe.all_params(), batch, np.uint32(5), *settings)
    assert frames is None
    np.testing.assert_array_equal(np.clip(images, -1, 1), pipe.sample(8, seed=5, as_float=True))


def test_a_vae_is_planned(monkeypatch):
    lowered = fake(monkeypatch, SMALL)
    made = planned(builders.complete(load_config("digits_vae:smoke"))).to_dict()
    assert len(lowered) == 2 and made["sample"]["steps"] == 1
    assert len(fake(monkeypatch, SMALL)) == 0
    assert "sample" not in planned(builders.complete(load_config("digits_vae:smoke")), sampler=False).to_dict()


def test_the_numbers_of_all_devices(monkeypatch):
    fake(monkeypatch, SMALL)
    monkeypatch.setattr(planned_module, "peak_flops", lambda kind: 160.0)
    monkeypatch.setattr(planned_module, "device_memory", lambda devices: 10.0)
    made = planned(config_of()).to_dict()
    assert made["fits"] and made["train"]["memory"]["total"] == 10
    assert (made["train"]["flops_per_step"], made["train"]["flops_per_image"]) == (640, 80)
    assert made["train"]["seconds_at_peak"] == 0.5 and made["sample"]["seconds_at_peak"] == 5
    assert made["train"]["collective_bytes"] == {"all-reduce": 5}


@pytest.mark.parametrize("figures", [SMALL, Figures(fault="out of memory")], ids=["by count", "by the compiler"])
def test_what_does_not_fit_gets_remedies(monkeypatch, figures):
    fake(monkeypatch, figures)
    monkeypatch.setattr(planned_module, "device_memory", lambda devices: 9.0)
    made = planned(config_of(training={"batch_size": 48, "accumulate": 2}, sampling={"batch_size": 32})).to_dict()
    assert not made["fits"] and not made["train"]["fits"]
    changes = [remedy.removeprefix("--config.") for remedy in made["remedies"]]
    expected = ["training.accumulate=6", "model.remat=True", "sampling.batch_size=16", "model.dtype=bfloat16"]
    assert changes == [*expected, "parallel.sharding=fsdp", "more devices, or a smaller --batch_size"]
    smallest = config_of(
        model={"remat": True, "dtype": "bfloat16"}, parallel={"sharding": "fsdp"}, sampling={"batch_size": 8}
    )
    assert planned(smallest).remedies == ("more devices, or a smaller --batch_size",)


def test_what_does_not_go_together_is_refused_as_when_training():
    for sections, said in (
        ({"training": {"batch_size": 12}}, "training.batch_size=12 does not divide over 8 devices: use 8 or 16"),
        ({"training": {"accumulate": 3}}, "training.accumulate=3 does not divide"),
        ({"parallel": {"mapping": "pmap"}}, "plan with --config.parallel.mapping=mesh"),
        ({"model": {"num_classes": 7}}, "model.num_classes=7, but digits has 10 classes"),
    ):
        with pytest.raises(InputError, match=said):
            planned(config_of(**sections))


def test_the_log_tells_how_long_it_takes(monkeypatch, caplog):
    monkeypatch.setattr(plan, "PROGRESS_SECONDS", (0.01, 0.02))
    with caplog.at_level("INFO", logger="marble"), plan._progress("compiling"):
        while len(caplog.messages) < 3:
            pass
    assert caplog.messages[0] == "compiling" and caplog.messages[1] == "compiling: 0 s"
    assert caplog.messages[-1] == "compiling: done in 0 s"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_pipelines.stable_diffusion(tmp_path_factory.mktemp("published") / "sd")


def size_in(folder):
    """The numbers of a file of weights, as its header says."""
    (path,) = folder.glob("*.safetensors")
    return sum(math.prod(tensor.shape) for tensor in files.read(path).values())


def sizes_in(checkpoint):
    return {name: size_in(checkpoint / name) for name in ("unet", "vae", "text_encoder")}


def planned_workdir(workdir, **options):
    return plan.plan_workdir(str(workdir), jax.devices(), **options)


def remembered(folder, checkpoint, **sections):
    """The workdir of a run that begins with the checkpoint's parts: a config and facts, no array."""
    config = load_config("digits:smoke")
    config.conditioner, config.codec = "text", "autoencoder"
    config.text = {"encoders": (f"{checkpoint}/text_encoder",), "tokenizers": (f"{checkpoint}/tokenizer",)}
    config.autoencoder = {"path": f"{checkpoint}/vae"}
    config.model = {"name": "conditional_unet", **small_networks.WITH_TEXT}
    config.diffusion.beta_schedule = "scaled_linear"
    config.update(sections)
    facts = workdirs.DataFacts(ImageSpec((16, 16, 3), 256), {"train": 64}, "content:0", ("cat", "dog"))
    workdirs.remember(str(folder), builders.complete(config).to_dict(), facts)
    return folder


def test_a_checkpoint_s_sampler_is_planned_and_no_weights_are_read(checkpoint, tmp_path, monkeypatch):
    converted = tmp_path / "converted"
    convert(str(checkpoint), str(converted))
    fake(monkeypatch, SMALL)
    monkeypatch.setattr("marble.convert.unread.params_of_part", None)
    sizes = sizes_in(checkpoint)
    for size, folder, options in ((4, checkpoint, {"batch_size": 9}), (2, converted, {"dtype": "bfloat16"})):
        made = planned_workdir(folder, **options).to_dict()
        assert "train" not in made and made["parameters"] == sizes["unet"]
        assert made["frozen_parameters"] == sizes["vae"] + sizes["text_encoder"]
        memory = made["sample"]["memory"]
        assert memory["parameters"] == size * sizes["unet"]
        assert memory["frozen"] == size * made["frozen_parameters"]
        assert memory["state"] == memory["parameters"] + memory["frozen"]
        config, _ = recalled(str(checkpoint))
        images = 16 if "batch_size" in options else config["sampling"]["batch_size"]
        assert (made["sample"]["images"], made["sample"]["steps"]) == (images, 50)


@pytest.mark.slow
def test_the_sampler_of_a_checkpoint_is_counted_by_what_is_done_once_and_in_a_step(checkpoint):
    found = planned_workdir(checkpoint, batch_size=8).to_dict()["sample"]
    pipe = load(str(checkpoint))
    x, t = jnp.zeros((8, *pipe.codec.spec.shape)), jnp.zeros(8, jnp.int32)
    context = {"text": jnp.zeros((8, small_networks.MAX_LENGTH, small_networks.UNET.text_channels))}
    network, decoder, encoder = (
        products(jax.make_jaxpr(function)(*arguments).jaxpr)
        for function, *arguments in (
            (pipe.apply, pipe.params, x, t, context),
            (pipe.codec.decode, x),
            (pipe.conditioner.of_rows, pipe.rows(8, seed=0)),
        )
    )
    assert 2 * network < found["flops_per_step"] < 1.4 * 2 * network
    assert decoder + 2 * encoder < found["flops_once"] < 1.3 * (decoder + 2 * encoder)


@pytest.mark.slow
def test_the_program_of_a_checkpoint_that_is_planned_is_the_one_that_samples(checkpoint):
    pipe = load(str(checkpoint))
    config, data = recalled(str(checkpoint))
    with unread():
        unread_pipe = builders.build(config, data.image).pipeline(None)
    shapes = pipe.mapping.shapes_of(pipe.params)
    lowered = pipe.lower(shapes, batch_size=8)
    assert unread_pipe.lower(shapes, batch_size=8).as_text() == lowered.as_text()
    request = {"text": "a photo of a cat"}
    rows = pipe.mapping.put(pipe.rows(8, seed=5, request=request))
    settings = pipe.grid(5, sampler=pipe.sampler), np.int32(5), pipe.guidance(request), traced_settings(pipe.sampler)
    images, _ = lowered.compile()(pipe.all_params(), rows, np.uint32(5), *settings)
    drawn = pipe.sample(8, seed=5, steps=5, as_float=True, **request)
    np.testing.assert_allclose(np.clip(images, -1, 1), drawn, atol=1e-4)


@pytest.mark.slow
def test_a_run_s_workdir_has_a_train_step_whose_state_holds_what_is_frozen(checkpoint, tmp_path, monkeypatch):
    lowered = fake(monkeypatch, SMALL)
    made = planned_workdir(remembered(tmp_path, checkpoint), dtype="bfloat16").to_dict()
    assert len(lowered) == 2
    assert made["parameters"] == size_in(checkpoint / "unet")
    frozen = size_in(checkpoint / "vae") + size_in(checkpoint / "text_encoder")
    train, sample = made["train"]["memory"], made["sample"]["memory"]
    assert (train["parameters"], train["frozen"]) == (4 * made["parameters"], 4 * frozen)
    of_each = 4  # parameters, their average, two moments
    assert 0 <= train["state"] - 4 * (of_each * made["parameters"] + frozen) < 1000
    assert (sample["parameters"], sample["frozen"]) == (2 * made["parameters"], 2 * frozen)
    assert made["sample"]["images"] == load_config("digits:smoke").sampling.batch_size
    split = planned_workdir(tmp_path, change=lambda config: changed(config, "parallel", sharding="fsdp")).to_dict()
    assert split["train"]["memory"]["frozen"] < 4 * frozen


def changed(config, section, **values):
    config = config.copy_and_resolve_references()
    config[section].update(values)
    return config


@pytest.mark.slow
def test_adapters_are_few_and_what_they_adapt_is_frozen(checkpoint, tmp_path, monkeypatch):
    fake(monkeypatch, SMALL)
    made = planned_workdir(remembered(tmp_path, checkpoint, lora={"rank": 2}, init_from=str(checkpoint))).to_dict()
    sizes = sizes_in(checkpoint)
    assert made["parameters"] < sizes["unet"] / 10
    assert made["train"]["memory"]["frozen"] == 4 * sum(sizes.values())
    assert made["sample"]["memory"]["parameters"] == 4 * sizes["unet"]


@pytest.mark.slow
def test_what_a_checkpoint_that_does_not_fit_is_to_be_tried_with(checkpoint, monkeypatch):
    fake(monkeypatch, SMALL)
    monkeypatch.setattr(planned_module, "device_memory", lambda devices: 9.0)
    assert planned_workdir(checkpoint, batch_size=32).remedies == (
        "--batch_size=16",
        "--dtype=bfloat16",
        "devices with more memory",
    )
    smallest = planned_workdir(checkpoint, dtype="bfloat16", batch_size=8)
    assert smallest.remedies == ("devices with more memory",)


def test_what_is_asked_of_a_checkpoint_in_vain(checkpoint):
    with pytest.raises(InputError, match="is no run: there is no train step to plan"):
        planned_workdir(checkpoint, sampler=False)
    with pytest.raises(InputError, match="dtype='float16' must be float32 or bfloat16"):
        planned_workdir(checkpoint, dtype="float16")
