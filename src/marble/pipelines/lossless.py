"""Images to a compressed file and back, by a trained model: what is behind ``marble compress`` and ``decompress``.

Encoder and decoder have to see the same x_0 to the last bit, so both call one program, for one device and one batch
size, and the file names both: the parameters by their hash, the program by the hash of its text, of the libraries and
the device that run it, and of what it says of the noise at the chain's start. Another machine that computes otherwise
is found out before a pixel is decoded.
"""

import contextlib
import hashlib
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from marble.compression import Allocation, Chain, Header, allocate, bound_bits, decode, encode, read, write
from marble.compression.format import HASH_BYTES
from marble.errors import InputError
from marble.parallel import compiler_options, fetch, in_32_bits
from marble.pipelines.diffusion import DiffusionPipeline
from marble.pipelines.evaluate import check_of_pixels
from marble.pipelines.rows import check_seed, integer_images

BATCH_SIZE = 64
"""Images in one call of the network; a part of the format, for another size gives other bits."""
LIBRARIES = ("jax", "jaxlib", "numpy", "scipy")


class Compressed(NamedTuple):
    """A file, and Σ -log2 of the probabilities that it was written with, in bits."""

    data: bytes
    ideal_bits: float


class LosslessCompressor:
    """A pipeline's network as a compressor. Images are integers [n h w c] in 0..levels-1, levels the data's own.

    A file holds images alone: a conditional model predicts by its null context. InputError for a model that has none,
    is in continuous time, or does not diffuse.
    """

    def __init__(self, pipe: DiffusionPipeline, *, progress: bool = False) -> None:
        _check(pipe)
        self.image, self.schedule = pipe.image, pipe.schedule
        self._params = jax.device_put(fetch(pipe.params), jax.local_devices()[0])
        self._size = int(np.prod(self.image.shape))
        self._progress = progress
        self._tick = _silent

        def network(params, x_t, t):
            told = pipe.conditioner.null(BATCH_SIZE)
            return jnp.clip(pipe.denoise_fn(params)(x_t, self.schedule.level(t), told).x_0, -1, 1).astype(jnp.float32)

        shape = jax.ShapeDtypeStruct((BATCH_SIZE, *self.image.shape), jnp.float32)
        options = compiler_options(gradients=False)
        jitted = jax.jit(network, compiler_options=options)
        lowered = in_32_bits(jitted.lower)(self._params, shape, jax.ShapeDtypeStruct((), jnp.int32))
        self._network = lowered.compile()
        device = jax.local_devices()[0]
        libraries = [f"{name} {version(name)}" for name in LIBRARIES]
        self._program = "\n".join([lowered.as_text(), str(options), device.platform, device.device_kind, *libraries])
        self._model_hash = _hash_of_params(self._params)

    def allocate(self, images: np.ndarray, *, num_steps: int | None = None) -> Allocation:
        """Where the bits go, from training images [n h w c]; see ``marble.compression.allocate``."""
        with self._reporting("allocating"):
            return allocate(self._predict, self.schedule, self._flat(images), self.image.levels, num_steps=num_steps)

    def compress(self, images: np.ndarray, allocation: Allocation, *, seed: int = 0) -> Compressed:
        """The file of images; the same images, allocation and seed give the same file. InputError for wrong values."""
        pixels = self._flat(images)
        chain = self._chain(allocation, len(pixels), seed)
        with self._reporting("compressing", calls=(chain.num_steps + 1) * -(-len(pixels) // BATCH_SIZE)):
            sections, ideal_bits = encode(chain, pixels)
        header = Header(
            shape=self.image.shape,
            levels=self.image.levels,
            count=len(pixels),
            seed=seed,
            allocation=allocation,
            model_hash=self._model_hash,
            program_hash=self._program_hash(chain),
            pixels_crc=zlib.crc32(pixels.astype(np.uint16).tobytes()),
            pixels_size=len(sections[-1]),
        )
        return Compressed(write(header, sections), ideal_bits)

    def decompress(self, data: bytes, *, prefix: bool = False) -> tuple[np.ndarray, bool]:
        """(images [n h w c], whether they are exact) of a file, or with prefix of what is there of one.

        Exact images are integers in 0..levels-1; what a prefix gives is the predicted x_0, float32 in [-1, 1].
        InputError for a file that is cut (without prefix), damaged, or of another model, program or machine.
        """
        header, sections = read(data, prefix=prefix)
        if header.model_hash != self._model_hash or (header.shape, header.levels) != self.image:
            raise InputError("the compressed file is of another model: give the workdir and step that made it")
        chain = self._chain(header.allocation, header.count, header.seed)
        if header.program_hash != self._program_hash(chain):
            raise InputError(
                "the compressed file was made by another program: another jax, NumPy or SciPy, device or machine; "
                "decode it where it was made"
            )
        with self._reporting("decompressing", calls=(len(sections) + 1) * -(-header.count // BATCH_SIZE)):
            images, exact = decode(chain, sections)
        if exact and zlib.crc32(images.astype(np.uint16).tobytes()) != header.pixels_crc:
            raise InputError("the decoded pixels are not those of the file: the network computes otherwise here")
        return images.reshape(-1, *self.image.shape), exact

    def bound_bits(self, images: np.ndarray, allocation: Allocation, *, seed: int = 1) -> float:
        """The negative ELBO of the allocation's chain, of all images together; see ``chain.bound_bits``."""
        pixels = self._flat(images)
        return bound_bits(self._chain(allocation, len(pixels), 0), pixels, seed)

    def _chain(self, allocation: Allocation, count: int, seed: int) -> Chain:
        check_seed(seed)
        if max(allocation.timesteps) >= self.schedule.num_train_timesteps:
            raise InputError(f"the file's chain starts at step {max(allocation.timesteps)}, which the model has not")
        return Chain(self._predict, self.schedule, allocation, self.image.levels, count, self._size, seed)

    def _predict(self, x_t: np.ndarray, t: int) -> np.ndarray:
        results = []
        for first in range(0, len(x_t), BATCH_SIZE):
            part = x_t[first : first + BATCH_SIZE]
            padded = np.zeros((BATCH_SIZE, *self.image.shape), np.float32)
            padded[: len(part)] = part.reshape(-1, *self.image.shape)
            results.append(np.asarray(self._network(self._params, padded, np.int32(t)))[: len(part)])
            self._tick()
        return np.concatenate(results).reshape(x_t.shape)

    def _program_hash(self, chain: Chain) -> bytes:
        first = chain._replace(count=min(chain.count, BATCH_SIZE))
        answer = self._predict(first.start(), chain.allocation.timesteps[0])
        return hashlib.sha256(self._program.encode() + answer.tobytes()).digest()[:HASH_BYTES]

    def _flat(self, images: np.ndarray) -> np.ndarray:
        """[n d] int64, checked."""
        images = integer_images(images, self.image)
        return images.reshape(len(images), -1).astype(np.int64)

    @contextlib.contextmanager
    def _reporting(self, what: str, calls: int | None = None) -> Iterator[None]:
        """A progress bar that counts calls of the network."""
        with tqdm(desc=what, total=calls, unit="batch", disable=None if self._progress else True) as bar:
            self._tick = bar.update
            try:
                yield
            finally:
                self._tick = _silent


def _check(pipe: Any) -> None:
    """InputError unless the pipeline's model can compress."""
    needed = "compression needs a diffusion model with a schedule of steps"
    if not isinstance(pipe, DiffusionPipeline):
        raise InputError(f"{needed}: this is a {type(pipe).__name__}, give another model")
    if pipe.schedule.num_train_timesteps is None:
        raise InputError(f"{needed}: this one is in continuous time, give another model")
    check_of_pixels(pipe, "lossless files")
    if pipe.conditioner.keys and not pipe.conditioner.has_null:
        raise InputError(f"compression needs {pipe.conditioner.null_remedy}")


def _silent() -> None:
    """For calls outside of what is reported."""


def _hash_of_params(params: Any) -> bytes:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.digest()[:HASH_BYTES]
