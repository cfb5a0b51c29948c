"""One call at a time; nobody waits for ever, and the device works for nobody who has gone."""

import threading
import time

import pytest

from marble.demo.device import Abandoned, Device, Done, Waiting
from marble.pipelines.progress import Progress


def stepping(count, seconds=0.0, log=None):
    """A call of so many steps, which keeps in log how many it has made."""

    def call(on_step):
        for i in range(count):
            time.sleep(seconds)
            on_step.call(Progress(i + 1, count))
            if log is not None:
                log.append(i + 1)
        return "drawn"

    return call


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_steps_come_in_order_and_the_result_last():
    *steps, done = Device(30).follow(stepping(5))
    assert [step.done for step in steps if isinstance(step, Progress)] == [1, 2, 3, 4, 5]
    assert isinstance(done, Done) and done.result == "drawn" and done.seconds >= 0


def test_what_the_call_raises_is_raised_and_the_device_free_again():
    device = Device(30)

    def broken(on_step):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(device.follow(broken))
    assert list(device.follow(stepping(1)))[-1].result == "drawn"


def test_calls_take_turns():
    device, running, most = Device(30), [], []

    def alone(on_step):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    threads = [threading.Thread(target=lambda: list(device.follow(alone))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 8


def test_who_waits_is_told_so():
    device, leave = Device(30), threading.Event()
    first = device.follow(lambda on_step: leave.wait(20))
    assert next(first) == Waiting(pytest.approx(0.5, abs=0.4), True)
    second = device.follow(stepping(1))
    assert next(second).has_begun is False
    leave.set()
    assert list(second)[-1].result == "drawn"


def test_a_call_ends_when_its_follower_goes():
    device, log = Device(30), []
    follower = device.follow(stepping(10_000, 0.01, log))
    next(follower)
    follower.close()
    assert list(device.follow(stepping(1)))[-1].result == "drawn"
    assert len(log) < 200


def test_a_call_ends_when_its_follower_is_silent():
    device, log, errors = Device(0.3), [], []

    def kept(on_step):
        try:
            stepping(10_000, 0.01, log)(on_step)
        except Abandoned as error:
            errors.append(error)
            raise

    follower = device.follow(kept)
    next(follower)
    wait_for(lambda: errors)
    assert len(log) < 300
