"""What marble convert wrote, opened by diffusers: the same images as of what it was made of."""

import json

import jax.numpy as jnp
import numpy as np
import peer
import pytest

import marble
from marble import builders, run
from marble.config import load_config
from marble.conversion import convert
from marble.diffusion.process import p_posterior

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from convert import pipeline_folders  # noqa: E402
from convert.ddpm_pair import PAPER_S, as_original, config, drawn  # noqa: E402

pytestmark = pytest.mark.parity


def opened(kind, folder, **options):
    pipe = getattr(diffusers, kind).from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe, **request):
    return pipe(num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="np", **request).images


def ends_clean():
    return diffusers.DDIMScheduler(**pipeline_folders.SCHEDULE, steps_offset=1, clip_sample=False)


PROMPT = dict(prompt="a red fox", negative_prompt="blurry", guidance_scale=4.0)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda folder: pipeline_folders.stable_diffusion(folder, ends_clean()), "StableDiffusionPipeline"),
        (
            lambda folder: pipeline_folders.stable_diffusion(folder, ends_clean(), use_linear_projection=True),
            "StableDiffusionPipeline",
        ),
        (pipeline_folders.stable_diffusion_xl, "StableDiffusionXLPipeline"),
    ],
    ids=["sd", "linear", "xl"],
)
def test_text_to_image_there_and_back(make, kind, tmp_path):
    pipe = make(tmp_path)
    expected = images(pipe, **PROMPT)
    convert(tmp_path / "sd", tmp_path / "run")
    convert(tmp_path / "run", tmp_path / "back")
    back = opened(kind, tmp_path / "back")
    assert type(back.scheduler).__name__ in ("DDIMScheduler", "EulerDiscreteScheduler")
    # Linear layers of a small model come back as convolutions, which round otherwise.
    is_same = back.unet.config.use_linear_projection == pipe.unet.config.use_linear_projection
    np.testing.assert_allclose(images(back, **PROMPT), expected, rtol=0, atol=0 if is_same else 1e-5)
    assert expected.std() > 0.01


def test_a_dit_there_and_back(tmp_path):
    torch.manual_seed(0)
    transformer = peer.shaken(
        diffusers.DiTTransformer2DModel(
            sample_size=8, num_layers=2, num_attention_heads=2, attention_head_dim=8, out_channels=8
        )
    )
    first, *others = (block.norm1.emb.state_dict() for block in transformer.transformer_blocks)
    for state in others:  # as all published ones have it
        for name, tensor in state.items():
            tensor.copy_(first[name])
    pipe = diffusers.DiTPipeline(transformer, pipeline_folders.autoencoder(), ends_clean())
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "in")
    index = json.loads((tmp_path / "in" / "model_index.json").read_text())
    index["id2label"] = {str(i): f"class {i}" for i in range(1000)}  # which it reads, and does not write
    (tmp_path / "in" / "model_index.json").write_text(json.dumps(index))
    convert(tmp_path / "in", tmp_path / "run")
    convert(tmp_path / "run", tmp_path / "back")
    back = opened("DiTPipeline", tmp_path / "back")
    request = dict(class_labels=[3, 7], guidance_scale=4.0)
    np.testing.assert_array_equal(images(back, **request), images(pipe, **request))
    assert back.get_label_ids(["class 7"]) == [7]


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
def test_pixels_there_and_back(scheduler, tmp_path):
    torch.manual_seed(0)
    unet = peer.shaken(
        diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            # The convention that marble's paper has, and one of diffusers' own
            freq_shift=1 if scheduler == "DDPMScheduler" else 0,
            flip_sin_to_cos=scheduler != "DDPMScheduler",
        )
    )
    kind = scheduler.replace("Scheduler", "Pipeline")
    pipe = getattr(diffusers, kind)(unet, getattr(diffusers, scheduler)(num_train_timesteps=20, beta_end=0.3))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "run")
    convert(tmp_path / "run", tmp_path / "back")
    back = opened(kind, tmp_path / "back")
    np.testing.assert_array_equal(images(back, batch_size=2), images(pipe, batch_size=2))


@pytest.mark.parametrize("learned", [False, True])
def test_a_run_s_means_in_the_loop_of_diffusers(learned, tmp_path, monkeypatch):
    config = builders.complete(load_config("digits:smoke")).to_dict()
    config["training"] |= {"num_steps": 2, "sample_every": 0, "eval_every": 0}
    config["diffusion"] |= {"variance_type": "learned_range" if learned else "fixed_large"}
    config["sampling"] |= {"variance_type": config["diffusion"]["variance_type"]}
    run.run(builders.complete(config), str(tmp_path / "run"))
    convert(tmp_path / "run", tmp_path / "theirs")
    theirs, ours = opened("DDPMPipeline", tmp_path / "theirs"), marble.load(str(tmp_path / "run"))
    assert theirs.scheduler.config.variance_type == config["diffusion"]["variance_type"]
    # The draw of a step, left out: what remains is the mean. And instead of it ones: the deviation.
    drawn = []
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **_: drawn[-1] * torch.ones(shape)
    )
    denoise_fn = ours.clipped_denoise_fn(ours.params)
    theirs.scheduler.set_timesteps(10)
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    for t in (9, 5, 2, 1):
        level, before = ours.schedule.level(t), ours.schedule.previous_level(t)
        prediction = denoise_fn(x, level)
        reverse = p_posterior(
            prediction, x_t=x, level_t=level, level_s=before, variance_type=config["diffusion"]["variance_type"]
        )
        with torch.no_grad():
            said = theirs.unet(peer.nchw(x), t).sample
            drawn.append(0.0)
            mean = peer.nhwc(theirs.scheduler.step(said, t, peer.nchw(x)).prev_sample)
            drawn.append(1.0)
            moved = peer.nhwc(theirs.scheduler.step(said, t, peer.nchw(x)).prev_sample)
        peer.assert_near(reverse.mean, mean)
        np.testing.assert_allclose(moved - mean, np.broadcast_to(jnp.sqrt(reverse.variance), x.shape), rtol=1e-3)
        x = np.asarray(reverse.mean + 0.1 * jnp.sqrt(reverse.variance))
    pictures = theirs(batch_size=2, num_inference_steps=3, output_type="np").images
    assert pictures.shape == (2, 8, 8, 1) and np.isfinite(pictures).all()


def test_half_precision_is_opened(tmp_path):
    pipe = pipeline_folders.stable_diffusion(tmp_path, ends_clean())
    convert(tmp_path / "sd", tmp_path / "half", to="diffusers", dtype="float16")
    half = opened("StableDiffusionPipeline", tmp_path / "half", torch_dtype=torch.float16)
    for name in ("unet", "vae", "text_encoder"):
        kept, found = getattr(pipe, name).state_dict(), getattr(half, name).state_dict()
        assert set(kept) == set(found)
        for key, tensor in kept.items():
            assert torch.equal(found[key], tensor.half() if tensor.is_floating_point() else tensor), key


def test_a_part_of_an_old_repository(tmp_path):
    vae = pipeline_folders.autoencoder()
    vae.save_pretrained(tmp_path / "vae", safe_serialization=False)
    assert [path.suffix for path in (tmp_path / "vae").iterdir() if path.suffix != ".json"] == [".bin"]
    convert(tmp_path / "vae", tmp_path / "now")
    found = diffusers.AutoencoderKL.from_pretrained(tmp_path / "now", use_safetensors=True).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in vae.state_dict().items())


def test_a_checkpoint_of_ddpm_s_copies_opens_as_a_pipeline(tmp_path):
    """The U-Net of diffusers by the first copies' names, in a training's list of PyTorch."""
    made = config(8, (32, 64), (0, 1), 1, attention_head_dim=None, **PAPER_S)
    theirs = drawn(diffusers.UNet2DModel(**made))
    states = {f"module.{name}": torch.tensor(array) for name, array in as_original(theirs).items()}
    torch.save([states, {}, 3, 100], tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", tmp_path / "out", to="diffusers", image_size=8)
    found = opened("DDPMPipeline", tmp_path / "out")
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        peer.assert_near(found.unet(x, 5).sample, theirs(x, 5).sample, share=1e-6)
