"""A U-Net of diffusers with adapters, beside ours with the same weights; importing it skips a test without peft."""

import contextlib

import jax
import numpy as np
import peer
import pytest
from small_unet import SMALL

from marble.convert import conditional_unet, lora, lora_config
from marble.convert.tensors import held
from marble.models.lora import merged

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv_in", "conv_out", "conv1", "conv2", "conv", "conv_shortcut", "proj_in", "proj_out"]
ALL = [*ATTENTION, *CONVOLUTIONS, "time_emb_proj", "linear_1", "linear_2", "net.0.proj", "net.2"]


class Pair:
    """A U-Net of diffusers and the same of ours, and what both are asked."""

    def __init__(self, linear=False):
        self.theirs = peer.shaken(diffusers.UNet2DConditionModel(**SMALL, use_linear_projection=linear))
        self.ours = conditional_unet.model_of(self.theirs.config)
        draw = np.random.default_rng(0).standard_normal
        x_t, text = draw((2, 8, 8, 4)).astype(np.float32), draw((2, 7, 20)).astype(np.float32)
        self.inputs = (x_t, np.array([3, 871]), {"text": text})
        self.table = conditional_unet.table(self.ours, linear=linear)
        self.shapes = peer.shapes_of(self.ours, *self.inputs)
        self.params = peer.converted(self.table, peer.arrays_of(self.theirs), self.shapes)

    def said_by_theirs(self):
        x_t, t, context = self.inputs
        with torch.no_grad():
            return peer.nhwc(self.theirs(peer.nchw(x_t), torch.tensor(t), torch.tensor(context["text"])).sample)

    def said_by_ours(self, params):
        return peer.run(self.ours, params, *self.inputs)

    def adapt(self, targets, **options):
        """Adapters in theirs, of numbers that show."""
        self.theirs.add_adapter(peft.LoraConfig(target_modules=targets, **options))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in self.theirs.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))

    @contextlib.contextmanager
    def adapted(self, targets, **options):
        """Adapters in theirs, and then none."""
        self.adapt(targets, **options)
        yield
        self.theirs.unload_lora()

    def state(self):
        return peft.get_peft_model_state_dict(self.theirs)

    def save(self, folder, state=None, **options):
        options["unet_lora_layers"] = state or self.state()
        diffusers.StableDiffusionPipeline.save_lora_weights(folder, **options)
        return folder / lora.FILE

    def config(self):
        return self.theirs.peft_config["default"].to_dict()

    def read(self, path, **options):
        return lora.read_file(path, self.table, self.shapes, **options)

    def loaded(self, path):
        """What theirs says with a file, through the pipeline."""
        pipeline = diffusers.StableDiffusionPipeline(
            vae=None,
            text_encoder=None,
            tokenizer=None,
            unet=self.theirs,
            scheduler=diffusers.DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.load_lora_weights(str(path))
        said = self.said_by_theirs()
        pipeline.unload_lora_weights()
        return said

    def assert_same(self, path, expected):
        """Ours with the file's adapters says what is expected, and that is not what it said without."""
        own, adapters = self.read(path)
        peer.assert_near(self.said_by_ours(merged(own, self.params, adapters)), expected)
        base = self.said_by_ours(self.params)
        assert np.abs(base - expected).max() > 0.05 * np.abs(expected).max()
        return own, adapters


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def small(module=QUERY):
    draw = np.random.default_rng(0).standard_normal
    return {
        f"unet.{module}.lora_A.weight": draw((2, 32)).astype(np.float32),
        f"unet.{module}.lora_B.weight": draw((32, 2)).astype(np.float32),
    }


def read(pair, tensors, metadata=None, **options):
    metadata = None if metadata is None else {lora_config.KEY: metadata}
    named = held({name: np.asarray(array) for name, array in tensors.items()})
    return lora.read(named, pair.table, pair.shapes, metadata=metadata, source="x.bin", **options)


ZERO = np.zeros
