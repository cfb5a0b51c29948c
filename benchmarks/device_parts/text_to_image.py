"""Text to image with Stable Diffusion 1.5's networks, of random weights: what is drawn does not change the time.

512x512 images by 20 steps of DPM-Solver++ 2M, guided by 7.5, in bfloat16. Ours is the whole program, from tokens to
images; diffusers' is its pipeline's loop and decoder, without the text encoder, so that it needs no transformers.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from benchmarks.ours import peak_memory
from marble.conditioning import Autoencoder, Text
from marble.conditioning.text_encoder import TextEncoder
from marble.convert import autoencoder_kl, clip, conditional_unet
from marble.convert.kinds import shapes_of
from marble.data.tokenizer import Tokenizer
from marble.diffusion import scaled_linear
from marble.models import AutoencoderKL, ClipText, ConditionalUNet
from marble.parallel import ParallelConfig
from marble.pipelines import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.pipelines.settings import traced_settings
from marble.sampling import dpm_solver_2m
from marble.schema import DTYPES

SETTINGS = [
    # whose, attention or torch_compile, images; the most telling first, what takes longest to compile last
    ("marble", "cudnn", 4),
    ("diffusers", False, 4),
    ("diffusers", False, 1),
    ("diffusers", False, 16),
    ("marble", "cudnn", 1),
    ("marble", "cudnn", 16),
    ("marble", "xla", 4),
    ("diffusers", True, 4),
    ("marble", "xla", 1),
    ("marble", "xla", 16),
]
SMOKE = [("marble", "xla", 2), ("diffusers", False, 2)]
STEPS, GUIDANCE = 20, 7.5
SHORTEST = 20.0
ROUNDS = 3
SCALE = 0.18215
WORDS = ("<start>", "<end>", "a", "red", "fox")


class Networks(NamedTuple):
    """Stable Diffusion 1.5's, or tiny ones of the same kinds."""

    unet: ConditionalUNet
    vae: AutoencoderKL
    text: ClipText
    side: int
    """Of the latents."""


def run(tell, seconds_left, smoke, out):
    for whose, how, num in SMOKE if smoke else SETTINGS:
        key = "attention" if whose == "marble" else "torch_compile"
        setting = dict(whose=whose, dtype="float32" if smoke else "bfloat16", images=num, **{key: how})
        setting["steps"] = 2 if smoke else STEPS
        if seconds_left() < SHORTEST and not smoke:
            tell(**setting, left_out=f"{seconds_left():.0f} s were left")
            continue
        try:
            (marble if whose == "marble" else diffusers)(tell, setting, smoke)
        except ModuleNotFoundError as error:
            tell(**setting, left_out=f"{error.name} is not installed")
        except Exception as error:  # one setting, as for want of memory: the others go on
            tell(**setting, failed=f"{type(error).__name__}: {str(error)[:300]}")


def marble(tell, setting, smoke):
    num, pipe = setting["images"], pipeline(setting["dtype"], setting["attention"], setting["steps"], smoke)
    began = time.perf_counter()
    compiled = pipe.lower(pipe.mapping.shapes_of(pipe.params), batch_size=num).compile()
    memory = compiled.memory_analysis()
    found = {
        "compile_seconds": round(time.perf_counter() - began, 1),
        "program_bytes": memory and memory.temp_size_in_bytes + memory.argument_size_in_bytes,
    }
    tell(**setting, **found)  # if there is no time to run it
    rows = pipe.mapping.put(pipe.rows(num, seed=0, request={"text": "a red fox"}))
    steps = setting["steps"]
    settings = pipe.grid(steps), np.int32(steps), pipe.guidance(), traced_settings(pipe.sampler)

    def call():
        return jax.device_get(compiled(pipe.all_params(), rows, np.uint32(0), *settings)[0])

    assert np.isfinite(call()).all(), "images that are not finite"
    tell(**setting, **found, **speed(call, num), peak_bytes_so_far=peak_memory())


def diffusers(tell, setting, smoke):
    from benchmarks.device_parts.text_to_image_torch import sampling

    call = sampling(networks(setting["dtype"], None, smoke), setting, scale=SCALE, guidance=GUIDANCE)
    began = time.perf_counter()
    call()
    first = round(time.perf_counter() - began, 1)
    tell(**setting, first_call_seconds=first)
    tell(**setting, first_call_seconds=first, **speed(call, setting["images"]))


def speed(call, num):
    """Of the quickest of a few calls."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return {"images_per_second": round(num / min(took), 3), "seconds": round(min(took), 3)}


def networks(dtype: str, attention: str | None, smoke: bool) -> Networks:
    of_all = dict(dtype=DTYPES[dtype])
    if not smoke:
        unet = ConditionalUNet(attention_implementation=attention, **of_all)
        return Networks(unet, AutoencoderKL(**of_all), ClipText(eos_token_id=1, **of_all), side=64)
    levels = dict(channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4, **of_all)
    shape = dict(transformer_depth=(1, 0), num_heads=(2, 2), text_channels=16)
    unet = ConditionalUNet(attention_implementation=attention, **levels, **shape)
    text = ClipText(vocab_size=5, width=16, num_layers=1, num_heads=2, eos_token_id=1, **of_all)
    return Networks(unet, AutoencoderKL(**levels), text, side=8)


@functools.lru_cache(maxsize=1)
def pipeline(dtype: str, attention: str, steps: int, smoke: bool) -> DiffusionPipeline:
    """As ``marble.load`` makes it of a checkpoint, on one device."""
    found = networks(dtype, attention, smoke)
    unet, vae, text = drawn(dtype, smoke)
    side = found.side * 2 ** (len(found.vae.channel_mult) - 1)
    image = ImageSpec((side, side, 3), 256)
    return DiffusionPipeline(
        model=found.unet,
        params=unet,
        schedule=scaled_linear(),
        codec=Autoencoder(vae, found.vae, image, SCALE),
        conditioner=Text((text,), (TextEncoder(found.text, tokenizer(found.text.max_length)),), image),
        sampler=dpm_solver_2m(),
        config=SamplingConfig(clip_sample=False, guidance_scale=GUIDANCE, num_steps=steps),
        mapping=ParallelConfig().open(tuple(jax.devices()[:1])),
    )


@functools.cache
def drawn(dtype: str, smoke: bool) -> tuple[Any, ...]:
    """Parameters of the three networks on the host: all of the same noise, for there are a billion of them."""
    found = networks(dtype, None, smoke)
    configs = {
        "UNet2DConditionModel": (found.unet, conditional_unet.config_of(found.unet)),
        "AutoencoderKL": (found.vae, autoencoder_kl.config_of(found.vae, scale=SCALE)),
        "CLIPTextModel": (found.text, clip.config_of(found.text)),
    }
    shapes = [shapes_of(model, config, kind) for kind, (model, config) in configs.items()]
    few = 0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)
    noise = np.resize(few.astype(DTYPES[dtype]), max(leaf.size for leaf in jax.tree.leaves(shapes)))

    def leaf(path: Any, shape: Any) -> np.ndarray:
        is_scale = jax.tree_util.keystr(path, simple=True).endswith("scale")
        return np.ones(shape.shape, noise.dtype) if is_scale else noise[: shape.size].reshape(shape.shape)

    return tuple(jax.tree_util.tree_map_with_path(leaf, shapes))


def tokenizer(max_length: int) -> Tokenizer:
    """Of a few words."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[1]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend, begin=WORDS[0], end=WORDS[1], pad=WORDS[1], max_length=max_length)
