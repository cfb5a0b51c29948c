"""The two kinds of failure that marble tells apart."""


class InputError(ValueError):
    """Something the user gave is wrong: the message names the value and the remedy. Exit status 2."""


class RunError(RuntimeError):
    """A run failed although its input was good: the message names the step or the file. Exit status 1."""
