"""How samples are judged: arrays in, numbers out; no networks. float64 on the host, in blocks that fit in memory."""

from marble.metrics.clip_score import ClipScore, clip_score
from marble.metrics.extrapolation import Extrapolation, frechet_extrapolation
from marble.metrics.frechet import frechet_distance, frechet_distance_of_features
from marble.metrics.frechet_estimate import FrechetEstimate, frechet_estimate, frechet_estimate_of_features
from marble.metrics.half_samples import HalfSampleErrors, half_sample_errors
from marble.metrics.inception_score import inception_estimate, inception_score
from marble.metrics.intervals import Estimate, Interval, bootstrap, jackknife, mean_estimate, share_interval
from marble.metrics.kernel import Spread, cmmd, gaussian_mmd, kid, polynomial_mmd
from marble.metrics.manifold import DensityCoverage, PrecisionRecall, density_coverage, prdc, precision_recall
from marble.metrics.memorization import Memorization, duplicate_rate, memorization
from marble.metrics.moments import Moments
from marble.metrics.neighbours import Neighbours, nearest
from marble.metrics.pixels import psnr, ssim
from marble.metrics.two_sample import nearest_neighbour_accuracy

__all__ = [
    "ClipScore",
    "DensityCoverage",
    "Estimate",
    "Extrapolation",
    "FrechetEstimate",
    "HalfSampleErrors",
    "Interval",
    "Memorization",
    "Moments",
    "Neighbours",
    "PrecisionRecall",
    "Spread",
    "bootstrap",
    "clip_score",
    "cmmd",
    "density_coverage",
    "duplicate_rate",
    "frechet_distance",
    "frechet_distance_of_features",
    "frechet_estimate",
    "frechet_estimate_of_features",
    "frechet_extrapolation",
    "gaussian_mmd",
    "half_sample_errors",
    "inception_estimate",
    "inception_score",
    "jackknife",
    "kid",
    "mean_estimate",
    "memorization",
    "nearest",
    "nearest_neighbour_accuracy",
    "polynomial_mmd",
    "prdc",
    "precision_recall",
    "psnr",
    "share_interval",
    "ssim",
]
