"""Tables of cases of which the default run takes a few, that stand for the others; all are there with -m slow."""

from collections.abc import Iterable

import pytest


def rest_slow(names: Iterable, *kept: object) -> list:
    """The names as parameters; those that are not kept are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in kept)) for name in names]
