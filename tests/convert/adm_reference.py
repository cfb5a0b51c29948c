"""The networks of iDDPM and ADM in PyTorch, written for these tests from the papers and the names in published files.

Its ``state_dict`` has those names. Plain and slow, so that it can be compared with the papers line by line.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a network is made with; attention stands at the levels, counted from 0, of ``attending``."""

    channels: int
    mult: Sequence[float]
    depth: int
    attending: Sequence[int]
    out: int
    groups: int
    heads: int | None = None
    head_channels: int | None = None
    legacy: bool = True
    ada: bool = True
    updown: bool = False
    classes: int | None = None
    colours: int = 3
    low_res: bool = False

    @property
    def widths(self):
        return [int(self.channels * m) for m in self.mult]

    def heads_of(self, width):
        return width // self.head_channels if self.head_channels else self.heads


class Norm(nn.GroupNorm):
    def __init__(self, plan, width):
        super().__init__(plan.groups, width, eps=1e-5)


class Residual(nn.Module):
    def __init__(self, plan, width_in, width, change=None):
        super().__init__()
        self.ada, self.change = plan.ada, change
        self.in_layers = nn.Sequential(Norm(plan, width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * plan.channels, width * (2 if plan.ada else 1)))
        last = nn.Conv2d(width, width, 3, padding=1)
        self.out_layers = nn.Sequential(Norm(plan, width), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def sized(self, image):
        if self.change == "half":
            return (image[..., ::2, ::2] + image[..., 1::2, ::2] + image[..., ::2, 1::2] + image[..., 1::2, 1::2]) / 4
        return image.repeat_interleave(2, -1).repeat_interleave(2, -2) if self.change == "double" else image

    def forward(self, image, vector):
        normalise, activate, convolve = self.in_layers
        h = convolve(self.sized(activate(normalise(image))))
        told = self.emb_layers(vector)[:, :, None, None]
        if self.ada:
            half = told.shape[1] // 2
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + told[:, :half]) + told[:, half:])
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(self.sized(image)) + h


def attended(qkv, heads, *, legacy):
    """[b 3c n] -> [b c n]: one head after the other, scores of q and k that are each times C^(-1/4)."""
    size, parts = qkv.shape[1] // (3 * heads), []
    for head in range(heads):
        starts = [(3 * head + i) * size if legacy else (i * heads + head) * size for i in range(3)]
        q, k, v = (qkv[:, start : start + size] for start in starts)
        scores = (q * size**-0.25).transpose(1, 2) @ (k * size**-0.25)
        parts.append(v @ scores.softmax(-1).transpose(1, 2))
    return torch.cat(parts, 1)


class Attention(nn.Module):
    def __init__(self, plan, width):
        super().__init__()
        self.heads, self.legacy = plan.heads_of(width), plan.legacy
        self.norm, self.qkv, self.proj_out = (
            Norm(plan, width),
            nn.Conv1d(width, 3 * width, 1),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, image, vector):
        h = attended(self.qkv(self.norm(image).flatten(2)), self.heads, legacy=self.legacy)
        return image + self.proj_out(h).reshape(image.shape)


class Half(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, image, vector):
        return self.op(image)


class Double(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, image, vector):
        return self.conv(image.repeat_interleave(2, -1).repeat_interleave(2, -2))


class First(nn.Conv2d):
    def forward(self, image, vector):
        return super().forward(image)


def chain(parts, image, vector):
    for part in parts:
        image = part(image, vector)
    return image


class Encoder(nn.Module):
    """Time and label, the way down, and the middle; ``stack`` has the channels of what the way up is given."""

    def __init__(self, plan):
        super().__init__()
        self.plan, width, vector = plan, plan.widths[0], 4 * plan.channels
        self.time_embed = nn.Sequential(nn.Linear(plan.channels, vector), nn.SiLU(), nn.Linear(vector, vector))
        if plan.classes:
            self.label_emb = nn.Embedding(plan.classes, vector)
        first = First(plan.colours * (2 if plan.low_res else 1), width, 3, padding=1)
        blocks, self.stack = [[first]], [width]
        for level, wanted in enumerate(plan.widths):
            if level:
                blocks.append([Residual(plan, width, width, "half") if plan.updown else Half(width)])
                self.stack.append(width)
            for _ in range(plan.depth):
                blocks.append([Residual(plan, width, wanted)])
                blocks[-1] += [Attention(plan, wanted)] if level in plan.attending else []
                width = wanted
                self.stack.append(width)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        middle = [Residual(plan, width, width), Attention(plan, width), Residual(plan, width, width)]
        self.middle_block = nn.ModuleList(middle)

    def vector(self, t, label=None):
        half = self.plan.channels // 2
        angles = t.float()[:, None] * torch.exp(torch.arange(half) * (-math.log(10_000) / half))[None]
        told = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1))
        return told if label is None else told + self.label_emb(label)

    def down(self, image, vector):
        kept = []
        for block in self.input_blocks:
            image = chain(block, image, vector)
            kept.append(image)
        return chain(self.middle_block, image, vector), kept


class UNet(Encoder):
    def __init__(self, plan):
        super().__init__(plan)
        blocks, width, stack = [], plan.widths[-1], list(self.stack)
        for level in reversed(range(len(plan.widths))):
            for i in range(plan.depth + 1):
                blocks.append([Residual(plan, width + stack.pop(), plan.widths[level])])
                width = plan.widths[level]
                blocks[-1] += [Attention(plan, width)] if level in plan.attending else []
                if level and i == plan.depth:
                    blocks[-1].append(Residual(plan, width, width, "double") if plan.updown else Double(width))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(Norm(plan, width), nn.SiLU(), nn.Conv2d(width, plan.out, 3, padding=1))

    def forward(self, x_t, t, label=None, low_res=None):
        vector = self.vector(t, label)
        if low_res is not None:
            large = functional.interpolate(low_res, x_t.shape[2:], mode="bilinear", align_corners=False)
            x_t = torch.cat([x_t, large], 1)
        h, kept = self.down(x_t, vector)
        for block in self.output_blocks:
            h = chain(block, torch.cat([h, kept.pop()], 1), vector)
        return self.out(h)


class Pool(nn.Module):
    def __init__(self, plan, side, width):
        super().__init__()
        self.heads = plan.heads_of(width)
        self.positional_embedding = nn.Parameter(torch.randn(width, side**2 + 1) / width**0.5)
        self.qkv_proj, self.c_proj = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, plan.out, 1)

    def forward(self, image):
        pixels = image.flatten(2)
        tokens = torch.cat([pixels.mean(2, keepdim=True), pixels], 2) + self.positional_embedding
        return self.c_proj(attended(self.qkv_proj(tokens), self.heads, legacy=False))[:, :, 0]


class Classifier(Encoder):
    def __init__(self, plan, image_size):
        super().__init__(plan)
        width = plan.widths[-1]
        side = image_size // 2 ** (len(plan.widths) - 1)
        self.out = nn.Sequential(Norm(plan, width), nn.SiLU(), Pool(plan, side, width))

    def forward(self, x, t):
        return self.out(self.down(x, self.vector(t))[0])
