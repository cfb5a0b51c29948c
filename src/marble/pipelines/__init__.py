"""Trained models in use: images in, images out."""

from marble.pipelines import editing
from marble.pipelines.autoencoder import AutoencoderPipeline
from marble.pipelines.classifier import Classifier
from marble.pipelines.clip import ClipPipeline
from marble.pipelines.diffusion import DiffusionPipeline
from marble.pipelines.evaluate import bits_per_dim
from marble.pipelines.measured import Flow
from marble.pipelines.settings import SamplingConfig
from marble.pipelines.tally import BitsPerDim, Estimate
from marble.pipelines.upsampler import UpsamplerPipeline
from marble.pipelines.vae import VAEPipeline, VAESamplingConfig
from marble.typing import ImageSpec

__all__ = [
    "AutoencoderPipeline",
    "BitsPerDim",
    "Classifier",
    "ClipPipeline",
    "DiffusionPipeline",
    "Estimate",
    "Flow",
    "ImageSpec",
    "SamplingConfig",
    "UpsamplerPipeline",
    "VAEPipeline",
    "VAESamplingConfig",
    "bits_per_dim",
    "editing",
]
