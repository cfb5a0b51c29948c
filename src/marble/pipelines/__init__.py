"""Trained models in use: images in, images out."""

from marble.pipelines.unconditional import DiffusionPipeline, ImageSpec, SamplingConfig

__all__ = ["DiffusionPipeline", "ImageSpec", "SamplingConfig"]
