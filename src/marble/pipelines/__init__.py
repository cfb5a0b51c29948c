"""Trained models in use: images in, images out."""

from marble.pipelines import editing
from marble.pipelines.unconditional import DiffusionPipeline, ImageSpec, SamplingConfig
from marble.pipelines.vae import VAEPipeline, VAESamplingConfig

__all__ = ["DiffusionPipeline", "ImageSpec", "SamplingConfig", "VAEPipeline", "VAESamplingConfig", "editing"]
