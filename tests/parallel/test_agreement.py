"""What one process decides alone; what several agree on is in tests/test_hosts.py, with real ones."""

import pytest

from marble.errors import InputError, RestartError, RunError
from marble.parallel import agreement


def test_one_process_decides_alone():
    assert agreement.is_first()
    assert agreement.from_first(lambda: [1]) == [1]
    assert agreement.StopVote()(True) and not agreement.StopVote()(False)
    assert agreement.arrays_from_first({"x": 3}, None) == {"x": 3}
    agreement.check_same("config", "abc")
    agreement.wait_for_all("nothing")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("a value"), InputError),
        (RestartError("a host"), RestartError),
        (OSError(28, "No space left on device"), RunError),
        (ConnectionResetError(104, "reset"), RestartError),
        (ValueError("a bug"), RunError),
    ],
)
def test_what_the_others_raise_has_the_exit_status_of_the_first(error, kind):
    assert agreement._kind(error) is kind
