"""The one benchmark runner: ours and the peers' in turns, in one run, on this machine.

    python -m benchmarks --suite NAME [--peer diffusers|lucidrains|none ...] [--out FILE] [--smoke] [its own options]
    python -m benchmarks --suite NAME --help

Run it in the checkout. Suites:

{suites}

Prints tables, after what machine and which versions they are of; --out FILE writes the same as JSON. Peers that are not
installed are left out, and said so: pip install 'marble-diffusion[peers]' brings them. --smoke makes everything tiny.
Exit status 0: done. 1: a part failed. 2: wrong usage.
"""

import argparse
import difflib
import importlib
import os
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.suites import SUITES
from marble.errors import InputError, RunError

LIST = "\n".join(f"    {name:14} {what}" for name, what in SUITES.items())


def main(words: Sequence[str] | None = None) -> int:
    """Runs a suite and returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room on the same GPU
    try:
        return run(words)
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def run(words: list[str]) -> int:
    """What main does, but for errors."""
    name = suite_of(words)
    if name is None:
        print(__doc__.format(suites=LIST))
        return 0 if {"-h", "--help"} & set(words) else 2
    suite = importlib.import_module(f"benchmarks.suites.{name}")
    options = parsed(name, suite, words)
    if not suite.REPORTS:
        return suite.run(options)
    from benchmarks import machine
    from benchmarks.report import Report

    with tempfile.TemporaryDirectory(prefix="compiled_") as cache:
        # A program that is compiled to be looked into, and again where it is used, is so once.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        about = machine.about_in_a_child() if suite.IN_CHILDREN else machine.about()
        return suite.run(options, Report(name, words, about, options.out))


def suite_of(words: list[str]) -> str | None:
    """The suite that is asked for; None where there is none; InputError for one that is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--suite")
    name = parser.parse_known_args(words)[0].suite
    if name is not None:
        check_name("suite", name, SUITES)
    return name


def parsed(name: str, suite: ModuleType, words: list[str]) -> argparse.Namespace:
    """The options of a suite, those that all have among them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks --suite {name}",
        description=suite.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--suite", help=argparse.SUPPRESS)
    if suite.REPORTS:
        parser.add_argument("--out", type=Path, metavar="FILE", help="write all of it here, as JSON")
    if suite.PEERS:
        told = f"of {', '.join(suite.PEERS)} and none (default: those that are installed)"
        parser.add_argument("--peer", nargs="+", metavar="PEER", default=list(suite.PEERS), help=told)
    suite.define(parser)
    options = parser.parse_args(words)
    if suite.PEERS:
        for peer in options.peer:
            check_name("peer", peer, [*suite.PEERS, "none"])
        options.peer = [peer for peer in suite.PEERS if peer in options.peer and "none" not in options.peer]
    return options


def check_name(kind: str, name: str, known: Collection[str]) -> None:
    """InputError, with the nearest, for what is none of them."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown {kind} {name!r}: did you mean {near!r}? There are {', '.join(known)}")


if __name__ == "__main__":
    sys.exit(main())
