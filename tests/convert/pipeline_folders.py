"""Small text-to-image folders as diffusers makes them, with random weights and a tokenizer of a few words."""

from pathlib import Path

import diffusers
import peer
import torch
import transformers
import vocabularies
from small_unet import SMALL


def write_tokenizer(folder):
    """CLIP's, for texts of 16 tokens."""
    vocabularies.write_clip(folder)
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=vocabularies.END, model_max_length=16
    )


def text_encoder(tokenizer, *, projection=None, width=20, act="quick_gelu"):
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        hidden_act=act,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
        **({} if projection is None else {"projection_dim": projection}),
    )
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return peer.shaken(kind(config))


def autoencoder():
    return peer.shaken(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
    )


def unet(**changes):
    torch.manual_seed(1)
    made = peer.shaken(diffusers.UNet2DConditionModel(**SMALL | changes), size=0.02)
    with torch.no_grad():  # of a fresh network a text changes next to nothing
        for name, weight in made.named_parameters():
            weight.mul_(4 if "attn2.to_" in name else 1)
    return made


SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def stable_diffusion(folder: Path, scheduler=None, **unet_changes):
    """A pipeline, written to folder/sd."""
    tokenizer = write_tokenizer(folder / "words")
    scheduler = scheduler or diffusers.DDIMScheduler(
        **SCHEDULE, steps_offset=1, clip_sample=False, set_alpha_to_one=False
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet(**unet_changes),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl(folder: Path, scheduler=None):
    tokenizer = write_tokenizer(folder / "words")
    changes = dict(
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 12,
        cross_attention_dim=44,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(tokenizer),
        text_encoder_2=text_encoder(tokenizer, projection=12, width=24, act="gelu"),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(**changes),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder / "sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def dit(folder: Path, scheduler=None):
    """A pipeline of 1000 classes, a number that stands in its code, and a learned variance; written to folder/dit."""
    torch.manual_seed(2)
    sizes = dict(sample_size=4, num_layers=2, num_attention_heads=2, attention_head_dim=8)
    network = peer.shaken(
        diffusers.DiTTransformer2DModel(**sizes, num_embeds_ada_norm=1000, in_channels=4, out_channels=8)
    )
    state = network.state_dict()  # the embeddings of all blocks are one in trained checkpoints
    first = {name: weight for name, weight in state.items() if name.startswith("transformer_blocks.0.norm1.emb")}
    network.load_state_dict(state | {name.replace("blocks.0", "blocks.1"): weight for name, weight in first.items()})
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False)
    pipe = diffusers.DiTPipeline(transformer=network, vae=autoencoder(), scheduler=scheduler)
    pipe.save_pretrained(folder / "dit")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels(folder: Path, scheduler=None):
    """A pipeline of pixels, written to folder/ddpm."""
    torch.manual_seed(3)
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    pipe = diffusers.DDPMPipeline(unet=peer.shaken(network), scheduler=scheduler or diffusers.DDPMScheduler())
    pipe.save_pretrained(folder / "ddpm")
    pipe.set_progress_bar_config(disable=True)
    return pipe
