"""Models and images judged: sets of images, what networks say of them, numbers with the protocol that they stand for.

Reading order: image_sets, samples -> collected -> judged -> evaluator -> stamp -> kept, report; command is all of it.
"""

from marble.evaluation.bits import BitsOptions
from marble.evaluation.command import Evaluation, ModelOptions, Written, evaluate
from marble.evaluation.evaluator import EvaluationOptions, Evaluator
from marble.evaluation.image_sets import ImageSet, of_arrays, of_folder, of_npz, of_source, open_images
from marble.evaluation.samples import SampleOptions, of_pipeline
from marble.evaluation.stamp import Number, Stamp, differences
from marble.evaluation.statistics_files import Statistics, read_statistics, write_statistics

__all__ = [
    "BitsOptions",
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "ImageSet",
    "ModelOptions",
    "Number",
    "SampleOptions",
    "Stamp",
    "Statistics",
    "Written",
    "differences",
    "evaluate",
    "of_arrays",
    "of_folder",
    "of_npz",
    "of_pipeline",
    "of_source",
    "open_images",
    "read_statistics",
    "write_statistics",
]
