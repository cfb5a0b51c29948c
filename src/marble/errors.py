"""The kinds of failure that marble tells apart, by exit status."""

EXIT_RESTART = 75
"""The exit status of a run that the same command goes on with (EX_TEMPFAIL of sysexits.h): it was asked to stop and
saved, or another process was lost."""


class InputError(ValueError):
    """Something the user gave is wrong: the message names the value and the remedy. Exit status 2."""


class RunError(RuntimeError):
    """A run failed although its input was good: the message names the step or the file. Exit status 1."""


class RestartError(RunError):
    """What failed is not the run but what it needs: the same command goes on later. Exit status EXIT_RESTART."""


class PeerLostError(RestartError):
    """Another process of the run is gone."""
