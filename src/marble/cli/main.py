"""The command ``marble``: picks the subcommand, and turns errors into one line and an exit status.

Nothing heavy is imported here, so that --help answers at once.
"""

import importlib
import logging
import os
import sys
import time
import traceback
from typing import Any

import marble
from marble.errors import EXIT_RESTART, InputError, RestartError, RunError

COMMANDS = {
    "train": ("marble.cli.train", "train a model from a config file"),
    "distill": ("marble.cli.distill", "make of a trained model one that draws in a few steps"),
    "sample": ("marble.cli.sample", "draw images from a trained model"),
    "demo": ("marble.cli.demo", "a page where anybody with a browser draws from a trained model"),
    "evaluate": ("marble.cli.evaluate", "measure a trained model: bits a dimension"),
    "compress": ("marble.cli.compress", "images to one file, without a loss"),
    "decompress": ("marble.cli.decompress", "the images of a compressed file, or of a part of it"),
    "convert": ("marble.cli.convert", "checkpoints of diffusers and of papers' code to workdirs, and back"),
    "export": ("marble.cli.export", "a trained sampler as a program that needs jax and numpy alone"),
    "plan": ("marble.cli.plan", "what a config needs of a TPU that need not be there, or of the devices here"),
    "data": ("marble.cli.data", "prepare a data set: marble data prepare NAME"),
}

WAIT_FOR_PEERS = 2.0
"""Seconds for the other processes to find out the same by themselves, before they miss this one."""

USAGE = """marble {version}: denoising diffusion models in JAX/Flax

usage: marble COMMAND [options]

{commands}

marble COMMAND --help lists the options of a command.
exit status: 0 done, 2 for wrong usage or input, 1 for a fault while running, 75 for a run that was
asked to stop and saved itself, or that lost another of its processes or its bucket (the same command
goes on)."""


def main(argv: list[str] | None = None, *, is_program: bool = False) -> int:
    """Runs one command and returns its exit status. Only where this is all of the program may it end the process."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(marble.__version__)
        return 0
    if argv[0] not in COMMANDS:
        return fail(f"unknown command {argv[0]!r}; there are: {', '.join(COMMANDS)}", 2)
    log_to_stderr()
    try:
        command = importlib.import_module(COMMANDS[argv[0]][0])
        return getattr(command, "program" if is_program else "main", command.main)(argv[1:])
    except InputError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except BrokenPipeError:  # whoever read our output has gone
        return 1
    except RestartError as error:
        return fail(error, EXIT_RESTART)
    except RunError as error:
        return fail(error, 1)
    except (OSError, *_store_errors()) as error:
        from marble.storage import may_pass

        if may_pass(error):
            return fail(f"the bucket, or the way to it, fails: {error!r}; run the same command again", EXIT_RESTART)
        return fail(error, 1)


def _store_errors() -> tuple[type[Exception], ...]:
    """Asked for when something was raised, and imported then."""
    from marble.storage import store_errors

    return store_errors()


def usage() -> str:
    """What --help prints."""
    commands = "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    return USAGE.format(version=marble.__version__, commands=commands)


def fail(error: object, status: int) -> int:
    """Says what went wrong, on one line."""
    said = " ".join((str(error) or repr(error)).split())
    # A file's name need not be UTF-8, and what a notebook has for stderr takes nothing else.
    print("marble:", said.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
    return status


def log_to_stderr() -> None:
    """marble's own log, above the progress bar."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    handler = BarHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("marble")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    sys.unraisablehook = hide_abandoned
    logging.getLogger("asyncio").disabled = True
    for name in ("absl", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # orbax and gcsfs log the tracebacks of what they raise


def hide_abandoned(unraisable: Any) -> None:
    """Drops what orbax's threads print when a save fails, dozens of tracebacks for the one error that it raises."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class BarHandler(logging.Handler):
    """Writes log lines to stderr without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
        sys.stderr.flush()


def run() -> None:
    """The program: main, without waiting, after a fault, for other processes or threads of a failed save."""
    try:
        status = main(is_program=True)
    except Exception:  # any at all: at its exit Python would wait for processes that wait for this one
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (1, EXIT_RESTART) or (
        status and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
    ):
        if status == 2:
            time.sleep(WAIT_FOR_PEERS)
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
