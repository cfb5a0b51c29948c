"""Pipelines from what is on a disk: the workdir of a run, or the folder of a published checkpoint.

In the config of a folder that can be moved, ``{workdir}`` stands for it: see ``located``.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from marble import checkpoint
from marble import workdir as workdirs
from marble.builders import Layout, as_now, build, complete, renamed
from marble.convert import adapters, pipeline_folder
from marble.convert.classifier import adm_classifier
from marble.convert.folder import open_part, params_of_part
from marble.convert.published import told_of
from marble.errors import InputError
from marble.experiments import Experiment
from marble.objectives.objective import Objective
from marble.parallel import agreement
from marble.pipelines import Classifier
from marble.schema import DTYPES
from marble.storage import is_remote, run_path
from marble.training import best as best_checkpoints
from marble.training import post_hoc_ema
from marble.typing import ImageSpec
from marble.workdir import DataFacts

PUBLISHED = "published"
"""What stands for the originals of the data of a published checkpoint, which are not known."""
TRAINS_NOTHING = {
    "seed": 0,
    "optimizer": {"name": "adam", "learning_rate": 1e-5},
    "training": {"batch_size": 1, "num_steps": 1, "ema_decay": 0.9999},
}
"""What a published checkpoint's config has where those of runs say how they were trained."""
PIXELS_AT_ONCE = 512 * 512
"""Of all images in one call of a published checkpoint's sampler: one of Stable Diffusion's, 64 of 64 x 64."""
MOST_AT_ONCE = 64
"""Images in such a call."""


def load(
    workdir: str,
    *,
    step: int | None = None,
    best: bool = False,
    raw_params: bool = False,
    ema_length: float | None = None,
    sampler: str | None = None,
    guide: str | None = None,
    dtype: str | None = None,
    lora: str | None = None,
    lora_scale: float = 1.0,
    classifier: str | None = None,
) -> Any:
    """The pipeline of a trained workdir, from its newest whole checkpoint, or that of ``step``; or of a published one.

    best takes the checkpoint that was measured to be the best (``evaluation.best``), where the run kept one.
    A published checkpoint is a folder as diffusers has it, with a model_index.json. A workdir's pipeline samples with
    the averaged parameters, or with the last ones if raw_params, or with an average of ema_length, a share of the
    training, where the run stored what it takes (``training.post_hoc_ema``). sampler replaces the config's. guide is
    the workdir of a weaker model, for autoguidance by ``guidance_scale``. dtype, float32 or bfloat16, is what all
    networks compute in, in place of the config's, and what their parameters are held in. lora is a file of adapters, of
    which the network gets lora_scale times what they add. classifier is the file of an ADM classifier of noisy images,
    for guidance by ``classifier_scale``.
    InputError when workdir has no run or no such checkpoint, RunError when the checkpoints are damaged.
    """
    which = dict(step=step, best=best, raw_params=raw_params, ema_length=ema_length, sampler=sampler, dtype=dtype)
    beside = dict(guide=guide, lora=lora, lora_scale=lora_scale, classifier=classifier)
    return load_step(workdir, **beside, **which)[1]


def load_step(
    workdir: str,
    *,
    guide: str | None = None,
    lora: str | None = None,
    lora_scale: float = 1.0,
    classifier: str | None = None,
    **which: Any,
) -> tuple[int, Any]:
    """The step of the checkpoint that ``load`` takes, and its pipeline; which are arguments of ``load_params``."""
    step, experiment, params = load_params(workdir, **which)
    if lora is not None:
        params = adapters.adapted(experiment.objective.model, params, lora, lora_scale)
    return step, experiment.pipeline(
        params,
        guide=None if guide is None else load(guide, dtype=which.get("dtype")),
        classifier=None if classifier is None else open_classifier(classifier, experiment),
    )


def open_classifier(path: str, experiment: Experiment) -> Classifier:
    """The classifier of a file; InputError where it is of other images or classes than the experiment's model."""
    model, params = adm_classifier(path, experiment.image.shape)
    num_classes = getattr(experiment.objective.model, "num_classes", None)
    if num_classes is None:
        raise InputError(f"the classifier {path} guides towards a label, and this model is told none: leave it out")
    if num_classes != model.num_classes:
        raise InputError(f"the classifier {path} knows {model.num_classes} classes, and this model {num_classes}")
    return Classifier(params, model)


def load_params(
    workdir: str,
    *,
    step: int | None = None,
    best: bool = False,
    raw_params: bool = False,
    ema_length: float | None = None,
    sampler: str | None = None,
    dtype: str | None = None,
) -> tuple[int, Experiment, Any]:
    """What ``load`` makes a pipeline of: the step, the experiment, and the parameters on the host."""
    if raw_params and ema_length is not None:
        raise InputError(f"raw_params and ema_length={ema_length} are two kinds of parameters: leave one out")
    if best and (step is not None or ema_length is not None):
        other = f"ema_length={ema_length}" if step is None else f"step={step}"
        raise InputError(f"best and {other} ask for two checkpoints: leave one out")
    workdir = run_path("the workdir", workdir)
    config, data = recalled(workdir)
    if sampler is not None:
        if "sampler" not in Layout(config).sections["sampling"].names:
            raise InputError(f"sampler {sampler!r} given, but the model of {workdir} draws in one step: leave it out")
        config = renamed(config, "sampling", "sampler", sampler)
    if data.originals == PUBLISHED and (best or raw_params or ema_length is not None):
        raise InputError(
            f"{workdir} has one kind of parameters, a published checkpoint's: leave best, raw_params, ema_length out"
        )
    config = config if dtype is None else in_dtype(config, dtype)
    experiment = build(config, data.image, class_names=data.class_names, folder=workdir)
    step, params = _params(experiment, workdir, step=step, best=best, raw_params=raw_params, ema_length=ema_length)
    base = base_of(experiment.objective, config["init_from"]) if experiment.objective.adapts else None
    params = experiment.objective.whole(params, experiment.objective.frozen(base))
    return step, experiment, params if dtype is None else _held_in(params, dtype)


def load_trained(workdir: str, *, step: int | None = None) -> tuple[int, Experiment, Any]:
    """The step, the experiment and what it trained, averaged, on the host: of a run of adapters these alone."""
    workdir = run_path("the workdir", workdir)
    config, data = recalled(workdir)
    experiment = build(config, data.image, class_names=data.class_names, folder=workdir)
    step, params = _params(experiment, workdir, step=step, best=False, raw_params=False, ema_length=None)
    return step, experiment, params


def recalled(workdir: str) -> tuple[Mapping[str, Any], DataFacts]:
    """The complete config of a workdir or of a published checkpoint, and what is known of its images."""
    if is_published(workdir):
        described = pipeline_folder.described(workdir)
        found = located(described.config, workdir)
        training = {**TRAINS_NOTHING["training"], **found.get("training", {})}
        sampling = {"batch_size": images_at_once(described.image), **found["sampling"]}
        found |= {"training": training, "sampling": sampling}
        with told_of(workdir):
            config = complete({**TRAINS_NOTHING, "data": {"name": "published"}, **found})
        return config, DataFacts(described.image, {}, PUBLISHED, described.class_names)
    kept, data = workdirs.recall(workdir)
    return located(as_now(kept), workdir), data


def images_at_once(image: ImageSpec) -> int:
    """How many images of a published checkpoint one call samples: a laptop has to hold them, and one is one's work."""
    return min(MOST_AT_ONCE, max(1, PIXELS_AT_ONCE // (image.shape[0] * image.shape[1])))


def is_published(path: str) -> bool:
    """Whether there is a checkpoint as diffusers publishes them, and no run."""
    return not is_remote(path) and pipeline_folder.is_one(path)


def located(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    """The config with the folder's own path in the place of ``{workdir}``."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{workdir}", workdir)
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            return {key: filled(v) for key, v in value.items()}
        return type(value)(map(filled, value)) if isinstance(value, list | tuple) else value

    return filled(config)


def in_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with every network computing in that type."""
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} must be {' or '.join(DTYPES)}")
    return {
        name: {**section, "dtype": dtype} if hasattr(section, "keys") and "dtype" in section else section
        for name, section in config.items()
    }


def _held_in(params: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, DTYPES[dtype]), params)


def _params(
    experiment: Experiment,
    workdir: str,
    *,
    step: int | None,
    best: bool,
    raw_params: bool,
    ema_length: float | None,
) -> tuple[int, Any]:
    """The step, and the parameters on the host."""
    if is_published(workdir):
        if step is not None:
            raise InputError(f"step={step} given, and {workdir} is no run with several: leave it out")
        return 0, params_of_part(open_part(pipeline_folder.denoiser_folder(workdir)))
    shapes = jax.eval_shape(experiment.init_params)
    if ema_length is not None:
        step, params = post_hoc_ema.reconstruct(workdir, ema_length, shapes, step=step)
        return step, params
    field = "params" if raw_params else "ema_params"
    state = None

    def chosen() -> int:
        nonlocal state
        restore = best_checkpoints.restore_best if best else checkpoint.restore_newest
        found, state, *_ = restore(workdir, {field: shapes})
        return found

    if step is None:  # the first process says, for which is the newest or best may change while they read
        step = agreement.from_first(chosen)
    if state is None:
        folder = best_checkpoints.FOLDER if best else checkpoint.FOLDER
        state = checkpoint.restore(workdir, step, {field: shapes}, folder=folder)
    return step, state[field]


def base_of(objective: Objective, source: str | None) -> Any:
    """The parameters of source, on the host, that a run's loss reads: what its adapters adapt, or a teacher's; or None.

    They are in no checkpoint of the run: it reads them when it begins and goes on, and adapters' when it is used.
    InputError where they are not to be had, or of another model.
    """
    shapes = objective.base_shapes
    if shapes is None:
        return None
    if source is None:
        what = "lora.rank is set" if objective.adapts else "a student learns from a teacher"
        whose = "whose network is adapted" if objective.adapts else "that teaches"
        raise InputError(f"{what}: set init_from too, to the run or checkpoint {whose}")
    found = None

    def read() -> None:
        nonlocal found
        workdir, step = split_step(source)
        _, _, found = load_params(workdir, step=step)
        check_shapes(shapes, found, name=source)

    agreement.from_first(read)
    return agreement.arrays_from_first(found, shapes)


def check_shapes(shapes: Any, params: Any, *, name: str) -> None:
    """InputError unless the parameters have these paths and shapes, with the first that differs."""
    wanted, found = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (shapes, params))
    for path in {**wanted, **found}:
        there, here = (tuple(leaves[path].shape) if path in leaves else "nothing" for leaves in (found, wanted))
        if there != here:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(
                f"init_from={name} is of another model: {where} is {there} there and {here} in this config"
            )


def split_step(source: str) -> tuple[str, int | None]:
    """(workdir, step) of ``WORKDIR`` or ``WORKDIR:STEP``."""
    head, colon, tail = source.rpartition(":")
    workdir, step = (head, int(tail)) if colon and tail.isdecimal() else (source, None)
    return workdir if is_remote(workdir) else os.path.expanduser(workdir), step
