"""Configs become experiments here, and workdirs pipelines.

Each section of a config is the arguments of what it builds: a name picks the class or function from a dict, and that
signature is the schema. The dicts of what all configs have are here, those of an objective in its file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from marble.config import completed
from marble.errors import InputError
from marble.experiments import DataConfig, Experiment
from marble.objectives.autoencoder import LatentAutoencoder
from marble.objectives.clip import Contrastive
from marble.objectives.consistency import Consistency
from marble.objectives.diffusion import Diffusion
from marble.objectives.mean_flow import MeanFlow
from marble.objectives.objective import Given, Objective
from marble.objectives.progressive import Progressive
from marble.objectives.upsampler import Upsampler
from marble.objectives.vae import VariationalAutoencoder
from marble.parallel import ParallelConfig, in_32_bits
from marble.schema import Reading, Section, bind, look_up, merged, schema, unknown_key
from marble.training.config import EvaluationConfig, TrainingConfig
from marble.training.optimizer import adam, warmup_decay
from marble.typing import ImageSpec

OBJECTIVES = {
    "diffusion": Diffusion,
    "vae": VariationalAutoencoder,
    "autoencoder": LatentAutoencoder,
    "clip": Contrastive,
    "upsampler": Upsampler,
    "progressive": Progressive,
    "consistency": Consistency,
    "mean_flow": MeanFlow,
}
"""What ``config.objective`` can be; where a config does not say, its model does."""
OPTIMIZERS = {"adam": adam}
SECTIONS = {
    "data": Section(constructors=(DataConfig,)),
    "model": Section(),
    "optimizer": Section({"name": OPTIMIZERS}, (warmup_decay, "name")),
    "training": Section(constructors=(TrainingConfig,)),
    "sampling": Section(is_optional=True),
    "evaluation": Section(constructors=(EvaluationConfig,), is_optional=True),
    "parallel": Section(constructors=(ParallelConfig,), is_optional=True),
}
"""What every config has; objectives add to it."""
FIRST = ("data", "model")
"""What a reader of a config looks for first; an objective's own sections come next."""
RETIRED = {"training": {"timestep_sampling": "uniform", "self_conditioning": False, "label_dropout": 0.0}}
"""Keys that earlier versions kept in every workdir, with the value at which they meant nothing."""

EARLIER = {"training": {"ema_warmup": False}}
"""Keys that are newer than some workdirs, with what a run did before there was the key."""


def keys_beside_sections(*, seed: int, init_from: str | None = None, init_from_partial: bool = False) -> None:
    """The schema of what stands in a config outside of its sections and names; see ``marble.init_from``."""


class Layout:
    """What a config has, by the objective that it chooses: its names, its sections and its other keys."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.objective_name = _objective_name(config)
        self.objective: type[Objective] = OBJECTIVES[self.objective_name]
        self.names, self.parts = {}, {}
        for key, table in self.objective.choices.items():
            self.names[key] = config.get(key) or next(iter(table))
            self.parts[key] = look_up(key, table, self.names[key])
        of_parts = [part.sections for part in self.parts.values()]
        first = {name: Section(is_optional=True) for name in (*FIRST, *self.objective.sections)}
        self.sections = merged(first, SECTIONS, self.objective.sections, *of_parts)
        self._check(config)

    def _check(self, config: Mapping[str, Any]) -> None:
        """InputError unless the config has just what is read."""
        of_others = {name for objective in OBJECTIVES.values() for name in objective.sections} - set(self.sections)
        for section in config:
            if section in of_others:
                model = config.get("model", {}).get("name", next(iter(self.sections["model"].names["name"])))
                raise InputError(
                    f"the config section {section} is not read with model.name={model!r}: "
                    f"remove it; what is read is {', '.join(self.sections)}"
                )
        known = [*schema(keys_beside_sections), "objective", *self.names, *self.sections]
        for key, value in config.items():
            if key not in known:
                raise unknown_key("config", key, value, known)
        for name, section in self.sections.items():
            if name not in config and not section.is_optional:
                raise InputError(f"the config has no config.{name}")
        bind("config", _beside_sections(config), keys_beside_sections)


def _beside_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in schema(keys_beside_sections) if key in config}


def _objective_name(config: Mapping[str, Any]) -> str:
    """The name in the config, or the one whose models have the config's."""
    if config.get("objective") is not None:
        look_up("objective", OBJECTIVES, config["objective"])
        return config["objective"]
    models = {
        model: name
        for name, objective in reversed(OBJECTIVES.items())  # the first objective that has a model is its own
        for model in objective.sections.get("model", Section()).names.get("name", {})
    }
    chosen, _ = Section({"name": models}).chosen("model", config.get("model", {}))
    return chosen["name"]


def complete(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with every key that it does not state at its default; InputError for what it states wrongly."""
    layout = Layout(config)
    config = layout.objective.followed(config)
    whole = completed(_beside_sections(config), keys_beside_sections)
    whole.update({"objective": layout.objective_name, **layout.names})
    for name, section in layout.sections.items():
        chosen, rest = section.chosen(name, config.get(name, {}))
        made = section.resolved(chosen)
        bind(name, rest, *made)
        whole[name] = completed(rest, *made)
        for key, table in section.names.items():
            whole[name][key] = config[name].get(key, next(iter(table)))
    return whole


@in_32_bits
def build(
    config: Mapping[str, Any],
    image: ImageSpec,
    *,
    class_names: Sequence[str] | None = None,
    texts: Callable[[int], Sequence[str]] | None = None,
    folder: str | None = None,
) -> Experiment:
    """The parts of a config for images of this kind; InputError where a name, key, type or value is wrong.

    texts(limit) gives those of the training data, and folder is the run's workdir: see ``objective.Given``.
    """
    layout = Layout(config)
    reading = Reading(layout.objective.followed(config), layout.sections)
    if not 0 <= config["seed"] < 2**32:
        raise InputError(f"config key seed={config['seed']} must be between 0 and {2**32 - 1}")
    learning_rate, training = reading.make("optimizer", warmup_decay), reading.make("training", TrainingConfig)
    given = Given(training, image, class_names, layout.parts, texts, folder)
    objective = layout.objective.build(reading, given)
    return Experiment(
        seed=config["seed"],
        data=reading.make("data", DataConfig),
        objective=objective,
        optimizer=objective.optimizer(reading.make("optimizer", "name", learning_rate)),
        learning_rate=learning_rate,
        training=training,
        image=image,
        evaluation=reading.make("evaluation", EvaluationConfig),
        parallel=reading.make("parallel", ParallelConfig),
    )


def data_config(config: Mapping[str, Any]) -> DataConfig:
    """The section ``data``, which is opened before the rest can be built."""
    return Reading(config, {"data": SECTIONS["data"]}).make("data", DataConfig)


def parallel_config(config: Mapping[str, Any]) -> ParallelConfig:
    """The section ``parallel``, which says how the processes of a run find each other."""
    return Reading(config, {"parallel": SECTIONS["parallel"]}).make("parallel", ParallelConfig)


def as_now(kept: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The complete config that this version would keep of a run, from what an earlier one kept."""
    config = dict(kept)
    sections = Layout(config).sections
    for name, retired in RETIRED.items():
        read = sections[name].keys_for(name, config[name])
        gone = [key for key in retired if key not in read and config[name].get(key) == retired[key]]
        config[name] = {key: value for key, value in config[name].items() if key not in gone}
    for name, earlier in EARLIER.items():
        config[name] = {**earlier, **config[name]}
    return complete(config)


def renamed(config: Mapping[str, Any], section: str, key: str, name: str) -> dict[str, Any]:
    """A config with another name at this key of a section, without what only the name before had in that section."""
    values = config[section]
    changed = {**config, section: {**values, key: name}}
    before, after = (Layout(c).sections[section].keys_for(section, c[section]) for c in (config, changed))
    return {**config, section: {k: v for k, v in changed[section].items() if k in after or k not in before}}
