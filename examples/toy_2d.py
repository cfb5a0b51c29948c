"""DDPM in one screen: train and sample a 2-D data set, with nothing but jax, optax and marble's pure functions."""

import itertools

import jax
import jax.numpy as jnp
import optax

from marble import diffusion, sampling

schedule = diffusion.linear(num_train_timesteps=200, beta_end=0.08)
init_key, train_key = jax.random.split(jax.random.key(0))


def spiral(key, num):
    angle_key, width_key = jax.random.split(key)
    angle = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(angle_key, (num, 1)))
    line = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1) * angle / 5
    return line + 0.1 * jax.random.normal(width_key, (num, 2))


def init(key, sizes=(18, 128, 128, 128, 2)):
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = itertools.pairwise(sizes)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros((1, n))) for k, (m, n) in zip(keys, shapes, strict=True)]


def model(params, x_t, t, context=None):
    angles = t[:, None] / 200 * 2.0 ** jnp.arange(8)[None]
    h = jnp.concatenate([x_t, jnp.sin(angles), jnp.cos(angles)], axis=1)
    for weights, bias in params[:-1]:
        h = jax.nn.silu(h @ weights + bias)
    return h @ params[-1][0] + params[-1][1]


optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 4000))


@jax.jit
def train_step(params, opt_state, key):
    t_key, noise_key, data_key = jax.random.split(key, 3)
    t, noise = jax.random.randint(t_key, (512,), 0, 200), jax.random.normal(noise_key, (512, 2))

    def loss(params):
        x_0 = spiral(data_key, 512)
        eps = model(params, diffusion.q_sample(schedule, x_0, t, noise), t)
        return diffusion.denoising_loss(eps, "eps", x_0=x_0, noise=noise, level=schedule.level(t)).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, value


@jax.jit
def draw(params, seed):
    denoise_fn = diffusion.denoiser(lambda *inputs: model(params, *inputs), schedule)
    keys = sampling.image_keys(seed, jnp.arange(1000))
    return sampling.sample(denoise_fn, sampling.Ancestral(), sampling.levels(schedule), keys, (2,))


def main(num_steps=4000):
    params = init(init_key)
    opt_state = optimizer.init(params)
    for step in range(num_steps):
        params, opt_state, loss = train_step(params, opt_state, jax.random.fold_in(train_key, step))
    return draw(params, 0), loss


if __name__ == "__main__":
    points, loss = main()
    print(f"loss {loss:.3f}; points with mean {points.mean(0)} and deviation {points.std(0)}")
