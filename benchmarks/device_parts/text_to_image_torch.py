"""diffusers' side of text to image: what StableDiffusionPipeline does after its text encoder, with equal networks."""

import functools

import diffusers
import torch

from benchmarks.peers.torch_device import as_jax_has_it, torch_device, wait_for_torch
from marble.convert import autoencoder_kl, conditional_unet

SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def sampling(networks, setting, *, scale, guidance):
    """A call that makes images and waits for them; it uses torch's own attention, as diffusers does where it can."""
    dtype, num, steps = getattr(torch, setting["dtype"]), setting["images"], setting["steps"]
    as_jax_has_it()
    device = torch_device()
    unet, vae = made(networks, scale, dtype)
    unet = compiled(unet) if setting["torch_compile"] else unet
    scheduler = diffusers.DPMSolverMultistepScheduler(**SCHEDULE)
    text = torch.randn((2 * num, networks.text.max_length, networks.text.width), device=device, dtype=dtype)

    @torch.inference_mode()
    def run():
        scheduler.set_timesteps(steps, device=device)
        x = torch.randn((num, unet.config.in_channels, networks.side, networks.side), device=device, dtype=dtype)
        x = x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            asked = scheduler.scale_model_input(torch.cat([x, x]), t)
            null, told = unet(asked, t, encoder_hidden_states=text, return_dict=False)[0].chunk(2)
            x = scheduler.step(null + guidance * (told - null), t, x, return_dict=False)[0]
        images = vae.decode(x / scale, return_dict=False)[0].float().cpu()
        wait_for_torch()
        return images

    return run


@functools.lru_cache(maxsize=1)
def made(networks, scale, dtype):
    """The U-Net and the autoencoder of the same architectures, their channels last, which is the quicker way."""
    configs = conditional_unet.config_of(networks.unet), autoencoder_kl.config_of(networks.vae, scale=scale)
    kinds = diffusers.UNet2DConditionModel, diffusers.AutoencoderKL
    with torch.device(torch_device()):
        nets = [kind.from_config(config) for kind, config in zip(kinds, configs, strict=True)]
    return [net.to(dtype=dtype, memory_format=torch.channels_last).eval() for net in nets]


@functools.lru_cache(maxsize=1)
def compiled(unet):
    return torch.compile(unet, fullgraph=True)
