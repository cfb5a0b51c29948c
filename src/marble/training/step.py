"""One step of training, a pure function of state, batch and key; compiled, one or several in a call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from marble.parallel.mapping import Gradient, Scan
from marble.training.ema import ema_update, towards
from marble.training.post_hoc_ema import LENGTHS, gamma_of, power_share
from marble.training.state import TrainState
from marble.typing import Array, Batch

LossFn = Callable[..., tuple[Array, dict[str, Any]]]
"""loss_fn(params, batch, key), with a state's loss_history as a fourth argument, and what it has frozen as a fifth."""

TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    ema_warmup: bool = True,
    accumulate: int = 1,
    averaged: Callable[[Gradient], Gradient] = lambda gradient: gradient,
    scan: Scan = jax.lax.scan,
) -> TrainStep:
    """train_step(state, batch, key) -> (state, metrics); key is the run's, the step's own is folded from it.

    A state with a loss_history gives it to loss_fn, and takes up the ``draws`` of its metrics; what it has ``frozen``
    it gives too.
    With accumulate = k the gradient is the mean over k micro-batches, with 1/k of the memory and, but for dropout, the
    same draws. averaged makes, of the gradient over a device's images, that over all, and scan is the loop over
    micro-batches: see ``marble.parallel.mapping``.
    A loss or gradient that is not finite sets state.diverged and leaves all else as it was.
    """
    ema = dict(ema_decay=ema_decay, ema_warmup=ema_warmup)
    gradient = averaged(accumulated(jax.value_and_grad(loss_fn, has_aux=True), accumulate, scan))

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        memory = (state.loss_history, state.frozen)
        memory = memory[: max((i + 1 for i, part in enumerate(memory) if part is not None), default=0)]
        (loss, metrics), grads = gradient(state.params, batch, jax.random.fold_in(key, state.step), *memory)
        draws = metrics.pop("draws", None)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "loss": loss, "grad_norm": optax.tree.norm(grads)}
        of_step = {"num_steps": jnp.ones((), jnp.int32), **metrics}
        updated = state.replace(
            step=state.step + 1,
            params=params,
            ema_params=ema_update(state.ema_params, params, step=state.step, **ema),
            opt_state=opt_state,
            window=jax.tree.map(lambda total, new: total + new.astype(total.dtype), state.window, of_step),
            loss_history=None if state.loss_history is None else state.loss_history.updated(**draws),
            power_averages=power_averaged(state.power_averages, params, state.step),
        )
        diverged = state.diverged | ~(jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]))
        old, new = state.without_frozen(), updated.without_frozen()
        kept = jax.tree.map(lambda old, new: jnp.where(diverged, old, new), old, new)
        return kept.replace(diverged=diverged, frozen=state.frozen), metrics

    return train_step


def power_averaged(averages: Any, params: Any, step: Array) -> Any:
    """The averages of ``post_hoc_ema.LENGTHS`` after update number step, from 0; None where none are kept."""
    if averages is None:
        return None
    shares = (power_share(step, gamma_of(length)) for length in LENGTHS)
    return tuple(towards(average, params, share) for average, share in zip(averages, shares, strict=True))


def accumulated(gradient: Callable[..., Any], count: int, scan: Scan) -> Callable[..., Any]:
    """value_and_grad(params, batch, key, ...) as the mean over count micro-batches (metrics are summed)."""
    if count == 1:
        return gradient

    def mean_gradient(params: Any, batch: Batch, *rest: Any) -> Any:
        def add(total, micro_batch):
            return jax.tree.map(jnp.add, total, gradient(params, micro_batch, *rest)), None

        # Strided, so that every device keeps its own images: micro-batch j has the images j, j + count, ...
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, params, first, *rest))
        ((loss, metrics), grads), _ = scan(add, zeros, parts)
        return (loss / count, metrics), jax.tree.map(lambda g: g / count, grads)

    return mean_gradient


def several_steps(train_step: TrainStep, scan: Scan = jax.lax.scan) -> TrainStep:
    """train_step over batches [n b ...], n steps in one program; the metrics are the last step's."""

    def run(state: TrainState, batches: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = scan(lambda s, batch: train_step(s, batch, key), state, batches)
        return state, jax.tree.map(lambda m: m[-1], metrics)

    return run
