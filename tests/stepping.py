"""Some real steps of an experiment, for objectives whose loss is no mean of the images' own."""

import jax
import numpy as np

from marble.training.step import make_train_step


def stepped(experiment, mapping, batch, key, *, steps):
    """The state, on the host, after so many steps of one batch."""
    step = make_train_step(
        experiment.loss_fn(train=True, across=mapping.across),
        experiment.optimizer,
        ema_decay=0.5,
        averaged=mapping.averaged,
        scan=mapping.scan,
    )
    state = mapping.init(experiment.init_state)
    batches = mapping.put_part({name: np.asarray(rows)[None] for name, rows in batch.items()}, batch_axis=1)
    one = lambda s, b, k: step(s, jax.tree.map(lambda x: x[0], b), k)  # noqa: E731
    compiled = mapping.compile_step(one, state, batches, key)
    for _ in range(steps):
        state, _ = compiled(state, batches, key)
    return jax.tree.map(np.asarray, state)
