"""What is seen of a compiled sampler while it runs: a bar that moves at each step, and images as they come to be."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from marble.conditioning import Codec
from marble.data.preprocess import to_uint8
from marble.errors import InputError
from marble.parallel import DeviceMapping
from marble.parallel.mapping import PmapMapping
from marble.pipelines.rows import whole
from marble.sampling import Sampler, Step
from marble.typing import Array, DenoiseFn, Level


class Ticking(NamedTuple):
    """A sampler that calls tick() on the host at each step."""

    sampler: Sampler
    tick: Callable[[], None]

    def init(self, x: Array, num_steps: int | Array) -> object:
        return self.sampler.init(x, num_steps)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: object, keys: Array) -> Step:
        jax.debug.callback(self.tick)
        return self.sampler.step(denoise_fn, level_t, level_s, x, carry, keys)


class Progress(NamedTuple):
    """A step that was made."""

    done: int
    """Steps that were made, over all batches, of total."""
    total: int
    first: int = 0
    """Which of the images asked for is the first of those below."""
    x: np.ndarray | None = None
    """uint8 [b h w c]: how far the images of the batch have come, where they are shown at this step."""
    x_0: np.ndarray | None = None
    """uint8 [b h w c]: what the model takes them for."""


class OnStep(NamedTuple):
    """Calls call(Progress) after each step, with images after every ``every``-th and after a batch's last.

    It is called in a thread of its own, in order, and the device does not wait for it. What it raises ends sampling,
    a step or so later, and is raised there.
    """

    call: Callable[[Progress], None]
    every: int = 1

    def asked(self, mapping: DeviceMapping) -> np.ndarray:
        """``every``, as programs take it; InputError where it is below 1, or programs have a part for each device."""
        if whole("every", self.every) < 1:
            raise InputError(f"every={self.every} must be at least 1")
        if isinstance(mapping, PmapMapping) and len(mapping.devices) > 1:
            raise InputError(
                f"on_step is for programs of one part, and parallel.mapping='pmap' makes {len(mapping.devices)}: use "
                "mapping='mesh', or one device"
            )
        return np.int32(self.every)


class Watched(NamedTuple):
    """A sampler that tells the host of each step, and where the host answers False makes no more of them.

    Images are made within the program: no other could run on the devices before this one ends.
    """

    sampler: Sampler
    every: Array
    show: Callable[[Array], Array]
    """x [b ...] as uint8 images."""
    tell: Callable[..., np.ndarray]
    """tell() or tell(x, x_0) on the host: whether to go on."""

    def init(self, x: Array, num_steps: int | Array) -> tuple[Array, Array, Array, object]:
        return jnp.int32(0), jnp.asarray(num_steps, jnp.int32), jnp.ones((), bool), self.sampler.init(x, num_steps)

    def step(self, denoise_fn: DenoiseFn, level_t: Level, level_s: Level, x: Array, carry: tuple, keys: Array) -> Step:
        done, num_steps, goes_on, inner = carry

        def made() -> tuple[Step, Array]:
            step = self.sampler.step(denoise_fn, level_t, level_s, x, inner, keys)
            return step, self._told(done + 1, num_steps, step)

        step, goes_on = jax.lax.cond(goes_on, made, lambda: (Step(x, x, inner), goes_on))
        return step._replace(carry=(done + 1, num_steps, goes_on, step.carry))

    def _told(self, done: Array, num_steps: Array, step: Step) -> Array:
        answer = jax.ShapeDtypeStruct((), bool)
        return jax.lax.cond(
            (done % self.every == 0) | (done == num_steps),
            lambda: io_callback(self.tell, answer, *self._shown(step)),
            lambda: io_callback(self.tell, answer),
        )

    def _shown(self, step: Step) -> Array:
        """x and x_0 [2 b ...], one after the other: a decoder is compiled once, and its insides are large."""
        return jax.lax.map(self.show, jnp.stack([step.x, step.x_0.astype(step.x.dtype)]))


class Watch:
    """The host's side of ``Watched`` programs while ``with`` is open: calls an OnStep in a thread.

    The thread of the device that tells of a step must not wait for arrays: on one core nothing else would make them.
    """

    def __init__(self, on_step: OnStep, *, num: int, batch_size: int, num_steps: int) -> None:
        """Of num images in batches of that size, each of which takes so many steps."""
        self._on_step, self._num, self._batch_size, self._num_steps = on_step, num, batch_size, num_steps
        self._told: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._call_all, name="on_step", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._told.put(None)
        self._thread.join()
        if error is None:
            self.check()

    def tell(self, *shown: Any) -> np.ndarray:
        """Takes what a program says of its step; whether it is to go on."""
        self._told.put(shown)
        return np.array(self._error is None)

    def check(self) -> None:
        """Raises what the OnStep raised."""
        if self._error is not None:
            raise self._error

    def _call_all(self) -> None:
        done, total = 0, -(-self._num // self._batch_size) * self._num_steps
        while (shown := self._told.get()) is not None:
            first = done // self._num_steps * self._batch_size
            done += 1
            if self._error is None:
                try:
                    images = (np.asarray(part)[: self._num - first] for part in shown)
                    self._on_step.call(Progress(done, total, first, *images))
                except BaseException as error:  # any at all ends sampling, and is raised where that was asked for
                    self._error = error


class Watcher:
    """A pipeline's, for its programs are compiled once, and each call of them has a Watch of its own."""

    def __init__(self) -> None:
        self._watch: Watch | None = None

    @contextlib.contextmanager
    def open(self, on_step: OnStep | None, **counts: int) -> Iterator[Callable[[], None]]:
        """A Watch, where there is an OnStep; gives what raises, between batches, what that has raised."""
        if on_step is None:
            yield lambda: None
            return
        with Watch(on_step, **counts) as self._watch:
            yield self._watch.check

    def watched(self, sampler: Sampler, every: Array | None, codec: Codec) -> Sampler:
        """The sampler of a program that is watched, or where every is None, itself."""
        if every is None:
            return sampler
        show = lambda x: to_uint8(codec.decode(x), codec.image.levels)  # noqa: E731
        return Watched(sampler, every, show, lambda *shown: self._watch.tell(*shown))
