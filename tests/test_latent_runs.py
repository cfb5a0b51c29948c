"""Runs in the space of latents, told of nothing, of classes, or of texts; what is frozen stays as it is."""

import json

import jax
import numpy as np
import pytest
import small_networks
import vocabularies

from marble import builders, checkpoint, run
from marble.errors import InputError
from marble.loading import load

MODELS = {
    "unet": {"name": "unet", "channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "num_groups": 4},
    "dit": {"name": "dit", "width": 16, "num_layers": 1, "num_heads": 2, "num_classes": 10},
    "text": {
        "name": "conditional_unet",
        "channels": 8,
        "channel_mult": (1,),
        "num_res_blocks": 1,
        "num_groups": 4,
        "transformer_depth": (1,),
        "num_heads": (2,),
        "text_channels": 12,
    },
    "dit_text": {"name": "dit", "width": 16, "num_layers": 1, "num_heads": 2, "num_classes": None, "text_channels": 12},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The folders of what is frozen."""
    folder = tmp_path_factory.mktemp("parts")
    networks = {
        "vae": small_networks.autoencoder(image_channels=1),
        "clip": small_networks.clip_text(),
        "bert": small_networks.bert_text(),
    }
    for name, network in networks.items():
        small_networks.write(folder / name, network)
    small_networks.write_tokenizer(folder / "clip_words")
    vocabularies.write_bert(folder / "bert_words")
    return {path.name: str(path) for path in folder.iterdir()}


def config_of(parts, kind, *, encoder="clip", num_steps=4, **sections):
    """A run of a few steps on the digits."""
    config = {
        "seed": 0,
        "data": {"name": "digits"},
        "codec": "autoencoder",
        "autoencoder": {"path": parts["vae"]},
        "model": MODELS[kind],
        "diffusion": {"beta_schedule": "scaled_linear", "num_train_timesteps": 1000},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {
            "batch_size": 16,
            "num_steps": num_steps,
            "ema_decay": 0.5,
            "log_every": 1,
            "eval_every": 4,
            "sample_every": 0,
            "checkpoint_every": 2,
        },
        "sampling": {"sampler": "ddim", "clip_sample": False, "num_steps": 3, "batch_size": 8},
    }
    if kind in ("text", "dit_text"):
        words = {"encoders": [parts[encoder]], "tokenizers": [parts[f"{encoder}_words"]]}
        config |= {"conditioner": "text", "text": {**words, "template": "a photo of the number {}"}}
    if kind == "dit":
        config["training"]["label_dropout"] = 0.1
    return builders.complete({**config, **sections})


def trained(config, workdir):
    """The last state, on the host, and the lines of its log by their keys."""
    state = jax.tree.map(np.asarray, run.run(config, str(workdir)))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses, held_out = ([line[key] for line in lines if key in line] for key in ("loss", "heldout_loss"))
    return state, losses, held_out


def assert_equal(a, b):
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(
    scope="module", params=[*(pytest.param(k, marks=pytest.mark.slow) for k in ("unet", "dit", "dit_text")), "text"]
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def finished(parts, kind, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(kind) / "run"
    return workdir, *trained(config_of(parts, kind), workdir)


def test_a_run_in_latents(parts, kind, finished):
    workdir, state, losses, held_out = finished
    assert len(losses) == 4 and np.isfinite(losses).all() and len(held_out) == 1 and np.isfinite(held_out[0])
    first = builders.build(config_of(parts, kind), load(str(workdir)).image, class_names=list("0123456789"))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.init_params(), state.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    # What is frozen is as it was in its folder, and in no checkpoint.
    assert_equal(state.frozen, first.objective.frozen())
    held = sum(leaf.size for leaf in jax.tree.leaves(state.without_frozen()))
    saved = sum(
        np.prod(leaf.shape) for leaf in jax.tree.leaves(checkpoint.restore(str(workdir), 4, state.without_frozen()))
    )
    assert saved == held


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_one_that_did_not_stop(parts, kind, finished, tmp_path):
    trained(config_of(parts, kind, num_steps=2), tmp_path / "run")
    state, losses, held_out = trained(config_of(parts, kind), tmp_path / "run")
    assert_equal(state, finished[1])
    assert (losses, held_out) == finished[2:]


@pytest.mark.slow
def test_the_loss_is_the_same_however_devices_are_used(parts, kind, finished, tmp_path):
    pmap, fsdp = {"mapping": "pmap"}, {"sharding": "fsdp", "fsdp_min_size": 64}
    parallel = {"unet": fsdp, "dit": pmap, "text": fsdp, "dit_text": fsdp}[kind]
    _, losses, held_out = trained(config_of(parts, kind, parallel=parallel), tmp_path / "run")
    np.testing.assert_allclose(losses, finished[2], rtol=2e-4)
    np.testing.assert_allclose(held_out, finished[3], rtol=2e-4)


def test_it_samples(kind, finished):
    pipe = load(str(finished[0]))
    of_texts = {"text": ["3", "a photo of the number 4"]}
    told = {"dit": {"labels": [3, 4]}, "text": of_texts, "dit_text": of_texts}.get(kind, {})
    images = pipe.sample(2, seed=1, **told)
    assert images.shape == (2, 8, 8, 1) and images.std() > 5
    assert set(np.unique(images)) <= set(np.round(np.arange(17) * 255 / 16).astype(np.uint8))


@pytest.mark.slow
def test_bert_is_an_encoder_too(parts, tmp_path):
    config = config_of(parts, "text", encoder="bert", num_steps=2)
    config.training.sample_every = 2
    config.parallel.mapping = "pmap"
    _, losses, _ = trained(config, tmp_path / "run")
    assert np.isfinite(losses).all()
    assert (tmp_path / "run" / "samples" / "0000002.png").exists()
    assert load(str(tmp_path / "run")).sample(2, text="the number 3").std() > 5


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"autoencoder": {"path": "/nowhere"}}, "/nowhere/config.json is not there"),
        ({"autoencoder": {"path": "CLIP"}}, "which is no autoencoder: give a folder such as a checkpoint's vae"),
        ({"text": {"encoders": ["VAE"], "tokenizers": ["WORDS"]}}, "which encodes no text"),
        ({"text": {"encoders": ["CLIP"], "tokenizers": []}}, "must be one for each of the 1 encoders"),
        (
            {"text": {"encoders": ["CLIP"], "tokenizers": ["WORDS"], "max_length": 13}},
            "text.max_length=13 for",
        ),
        ({"text": {"encoders": ["CLIP", "CLIP"], "tokenizers": ["WORDS"] * 2}}, "24 channels in all, and model.text"),
        ({"text": {"encoders": ["BERT"], "tokenizers": ["WORDS"]}}, "tokens, and the encoder"),
        ({"model": MODELS["unet"]}, "conditioner='text' is for models that read it"),
    ],
)
def test_parts_that_do_not_fit(parts, sections, message, tmp_path):
    names = {"CLIP": parts["clip"], "VAE": parts["vae"], "WORDS": parts["clip_words"], "BERT": parts["bert"]}

    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return [filled(v) for v in value] if isinstance(value, list) else names.get(value, value)

    with pytest.raises(InputError, match=message):
        run.run(config_of(parts, "text", **filled(sections)), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
