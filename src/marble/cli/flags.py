"""Command-line flags in absl's conventions, with marble's errors and exit status."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from marble.config import flat
from marble.errors import InputError
from marble.schema import nearest
from marble.storage import expanded, is_remote, run_path

RUNS = ("workdir", "guide")
"""The flags that name a run's folder, which may be in a bucket."""
FILES = (
    *("out", "input", "lora", "classifier", "init_image", "mask", "interpolate"),
    *("images", "reference", "report", "save_statistics", "compare_with"),
)
"""Those that name other files and folders, one or several."""


def parse(command: str, doc: str, argv: list[str], define: Callable[[flags.FlagValues], None]) -> flags.FlagValues:
    """The flags of a command from its words; prints the help and exits with 0 for --help.

    InputError for an unknown flag, a value of the wrong type, a missing one, or a word that is no flag.
    """
    values = flags.FlagValues()
    define(values)
    if any(word in ("-h", "-help", "--help") for word in argv):
        print(f"{doc.strip()}\n\nFlags of marble {command}:\n\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values([f"marble {command}", *argv])[1:]
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from error
    for name in values:
        if values[name].value == "":
            raise InputError(f"--{name} is empty: give a value, or leave it out")
        given = values[name].value
        if name in RUNS and given is not None:
            values[name].value = run_path(f"--{name}", given)
        if name in FILES and given is not None:
            values[name].value = expanded(given) if isinstance(given, str) else [expanded(path) for path in given]
        if name == "out" and is_remote(values.out or ""):
            raise InputError(f"--out {values.out} is in a bucket: give a path of this machine, and copy from there")
    if rest:
        raise InputError(f"marble {command} takes flags only, but was given {' '.join(rest)!r}")
    return values


def require(values: flags.FlagValues, *names: str) -> None:
    """InputError unless these flags were given."""
    for name in names:
        if values[name].value is None:
            raise InputError(f"--{name} is missing: {values[name].help}")


def refuse(values: flags.FlagValues, names: Sequence[str], reason: str) -> None:
    """InputError where one of these flags was given, for it would do nothing."""
    for name in names:
        if values[name].present:
            raise InputError(f"--{name} {reason}: leave it out")


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """The InputErrors of what is in a file or folder, with its name before them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def overridden(config: ConfigDict, words: list[str]) -> ConfigDict:
    """The config changed by words like ``--config.section.key=value``; InputError for unknown keys and wrong types."""
    known = flat(config)
    for word in words:
        key, _, value = word.removeprefix("--config.").partition("=")
        if key not in known:
            raise InputError(f"unknown config key {key}={value}{nearest(key, known)}")
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["marble", *words])
    try:
        values(["marble", *words])
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{' '.join(words)}: {' '.join(str(error).split())}") from error
    return values.config


def check_writable(flag: str, path: str, names: Sequence[str] = ()) -> None:
    """InputError unless files of these names can be written in that folder, or in the one where it is to be made."""
    folder = Path(path).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"--{flag} {path} can't be written to: {existing}: {error.strerror}") from error
    for name in names:
        if (folder / name).is_dir():
            raise InputError(f"--{flag} {path} can't be written to: {folder / name} is a folder; give another --{flag}")
