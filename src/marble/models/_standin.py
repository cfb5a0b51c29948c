from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def conv(f, k=3, s=1, zero=False, name=None):
    return nn.Conv(f, (k, k), (s, s), padding="SAME", kernel_init=nn.initializers.zeros if zero else init, name=name)


def emb(t, d):
    h = d // 2
    f = jnp.exp(-jnp.log(1e4) * jnp.arange(h) / (h - 1))
    a = t[:, None].astype(jnp.float32) * f[None]
    return jnp.concatenate([jnp.sin(a), jnp.cos(a)], -1)


class Res(nn.Module):
    c: int
    g: int
    d: float
    det: bool

    @nn.compact
    def __call__(s, x, e):
        h = conv(s.c)(nn.swish(nn.GroupNorm(s.g, epsilon=1e-6)(x)))
        h = h + nn.Dense(s.c, kernel_init=init)(nn.swish(e))[:, None, None, :]
        h = nn.Dropout(s.d, deterministic=s.det)(nn.swish(nn.GroupNorm(s.g, epsilon=1e-6)(h)))
        h = conv(s.c, zero=True)(h)
        if x.shape[-1] != s.c:
            x = nn.Dense(s.c, kernel_init=init)(x)
        return x + h


class Attn(nn.Module):
    g: int

    @nn.compact
    def __call__(s, x):
        b, h, w, c = x.shape
        y = nn.GroupNorm(s.g, epsilon=1e-6)(x).reshape(b, h * w, c)
        q, k, v = [nn.Dense(c, kernel_init=init)(y) for _ in range(3)]
        a = nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) * c**-0.5)
        o = jnp.einsum("bqk,bkc->bqc", a, v)
        return x + nn.Dense(c, kernel_init=nn.initializers.zeros)(o).reshape(b, h, w, c)


class UNet(nn.Module):
    out_channels: int = 3
    channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    num_heads: int = 1
    dropout: float = 0.0
    num_groups: int = 32
    num_classes: int | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(s, x, t, context=None, *, train=False):
        Rs = lambda c: Res(c, s.num_groups, s.dropout, not train)
        e = nn.Dense(4 * s.channels, kernel_init=init)(
            nn.swish(nn.Dense(4 * s.channels, kernel_init=init)(emb(t, s.channels)))
        )
        if s.num_classes:
            lab = context["label"] if context else jnp.full(x.shape[0], s.num_classes)
            e = e + nn.Embed(s.num_classes + 1, 4 * s.channels)(lab)
        x = conv(s.channels)(x)
        hs = [x]
        for i, m in enumerate(s.channel_mult):
            for _ in range(s.num_res_blocks):
                x = Rs(s.channels * m)(x, e)
                if x.shape[1] in s.attention_resolutions:
                    x = Attn(s.num_groups)(x)
                hs.append(x)
            if i < len(s.channel_mult) - 1:
                x = conv(s.channels * m, s=2)(x)
                hs.append(x)
        c = s.channels * s.channel_mult[-1]
        x = Rs(c)(Attn(s.num_groups)(Rs(c)(x, e)), e)
        for i, m in reversed(list(enumerate(s.channel_mult))):
            for _ in range(s.num_res_blocks + 1):
                x = Rs(s.channels * m)(jnp.concatenate([x, hs.pop()], -1), e)
                if x.shape[1] in s.attention_resolutions:
                    x = Attn(s.num_groups)(x)
            if i:
                x = conv(s.channels * m)(x.repeat(2, 1).repeat(2, 2))
        return conv(s.out_channels, zero=True)(nn.swish(nn.GroupNorm(s.num_groups, epsilon=1e-6)(x)))
