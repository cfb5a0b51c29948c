"""marble train: trains a model from a config file; started again, it goes on where it stopped.

marble train --config configs/digits.py[:variant] --workdir runs/digits [--config.training.num_steps=500]

On several hosts run the same command on each: Cloud TPU, GKE and SLURM are found; elsewhere set JAX_COORDINATOR_ADDRESS
to HOST:PORT of the first, JAX_NUM_PROCESSES and JAX_PROCESS_ID. The workdir is the first one's, or a bucket (gs://).
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from marble import strict_json
from marble.cli.flags import check_writable, overridden, parse, require
from marble.config import load_config
from marble.errors import EXIT_RESTART, InputError
from marble.schema import Section
from marble.storage import is_remote
from marble.training.interruption import Interrupted, Interruption

logger = logging.getLogger(__name__)


def define(values: flags.FlagValues) -> None:
    """The flags of marble train."""
    flags.DEFINE_string(
        "config",
        None,
        "Config file, or the name of a shipped config, with an optional :variant. "
        "--config.section.key=value changes a key.",
        flag_values=values,
    )
    flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, samples.", flag_values=values)
    flags.DEFINE_string("profile", None, "START:N: profile N steps after step START.", flag_values=values)
    flags.DEFINE_bool("print_config", False, "Print the whole config as JSON, and end.", flag_values=values)


def main(argv: list[str]) -> int:
    """Trains, and returns the exit status; a process that is asked to stop is its caller's to end."""
    with Interruption(ends_process=False) as interruption:
        return _train(argv, interruption)


def program(argv: list[str]) -> int:
    """The same for a process that does nothing else: asked to stop, it ends as soon as all is saved."""
    with Interruption() as interruption:  # before the imports of seconds that follow
        return _train(argv, interruption)


def _train(argv: list[str], interruption: Interruption) -> int:
    changes = [word for word in argv if word.startswith("--config.")]
    values = parse("train", __doc__, [word for word in argv if word not in changes], define)
    require(values, "config", *([] if values.print_config else ["workdir"]))
    if values.workdir is not None and not is_remote(values.workdir):
        check_writable("workdir", values.workdir)
    config = configured(values.config, changes)
    if values.print_config:
        print(strict_json.dumps_config(config.to_dict(), indent=2))
        return 0
    return trained([(config, values.workdir)], interruption, values.profile)


def trained(runs: Sequence[tuple[ConfigDict, str]], interruption: Interruption, profile: str | None = None) -> int:
    """Trains by each complete config in its workdir, one after the other, and returns the exit status.

    profile is of the last one: START:N.
    """
    config, workdir = runs[-1]
    if config.training.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    from marble.parallel import use_compilation_cache
    from marble.parallel.agreement import is_first
    from marble.run import run
    from marble.training.operation import Profile

    use_compilation_cache()
    profiled = None if profile is None else Profile.parse(workdir, profile)
    try:
        for of_run in runs:
            run(*of_run, interruption, profiled if of_run is runs[-1] else None)
    except Interrupted as interrupted:
        logger.warning("%s", interrupted)
        sys.stderr.flush()
        if interruption.ends_process:
            os._exit(EXIT_RESTART)  # an abandoned computation may run on, and must not be waited for
        return EXIT_RESTART
    if is_first():
        logger.info("done; %s", DONE.get(config.objective, SAMPLE).format(shlex.quote(workdir)))
    return 0


SAMPLE = "sample it with: marble sample --workdir {}"
DONE = {
    "autoencoder": "its network, for autoencoder.path of another run, is in {}/vae",
    "clip": "its networks, for text.encoders and text.tokenizers of another run, are in {}/clip",
    "upsampler": "make other runs' images larger with: marble sample --upsampler {}",
}
"""What to do with a run, by its objective."""


def configured(name: str, changes: list[str]) -> ConfigDict:
    """The complete config of that name with the changes of the command line."""
    return changed(load_config(name), changes)


def changed(config: ConfigDict, changes: list[str]) -> ConfigDict:
    """The complete config with the changes of the command line, --config.section.key=value."""
    from marble.builders import Layout, complete, renamed

    for word in changes:
        if "=" not in word:
            raise InputError(f"{word} has no value: write {word}=VALUE")
    for word in changes:  # names first: what one stands for says which other keys its section has
        key, _, value = word.removeprefix("--config.").partition("=")
        section, _, field = key.partition(".")
        if section in config and field in Layout(config).sections.get(section, Section()).names:
            changed = renamed(config, section, field, value)[section]
            dropped = [f"{section}.{key}" for key in config[section] if key not in changed]
            if dropped:
                logger.info("%s has no %s, which the config sets: left out", word, ", ".join(dropped))
            with config.unlocked():
                config[section] = ConfigDict(changed)
    return complete(overridden(complete(config), changes))
