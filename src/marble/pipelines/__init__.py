"""Trained models in use: images in, images out."""

from marble.pipelines.evaluate import Flow, bits_per_dim
from marble.pipelines.tally import BitsPerDim, Estimate
from marble.pipelines.unconditional import DiffusionPipeline, ImageSpec, SamplingConfig

__all__ = ["BitsPerDim", "DiffusionPipeline", "Estimate", "Flow", "ImageSpec", "SamplingConfig", "bits_per_dim"]
