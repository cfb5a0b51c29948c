"""The objective of CLIP: images and their texts as vectors of one space, near each other (Radford et al. 2021)."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from etils import epath

from marble import contrastive
from marble.conditioning import Origin
from marble.convert import clip as clip_names
from marble.convert.folder import write_part
from marble.data import tokenizer_training
from marble.data.examples import Examples, evenly
from marble.data.sources import Source
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.models import Clip, ClipText, ClipVision
from marble.objectives.objective import Given, Plain, refuse_guides
from marble.parallel import WHOLE, Across, DeviceMapping, agreement, fetch
from marble.pipelines.clip import ClipPipeline, seen
from marble.schema import DTYPES, Reading, Section
from marble.storage import local_folder, replaced_folder
from marble.training.state import no_sum
from marble.training.step import LossFn
from marble.typing import Array, Batch, ImageSpec

MOST_SCALE = 100.0
"""Of the temperature's inverse (Radford et al. 2021, section 2.5)."""
SIGMOID_SCALE, SIGMOID_BIAS = 10.0, -10.0
"""Where the sigmoid's begin (Zhai et al. 2023, section 3.2)."""
MOST_JUDGED, MOST_TEXTS = 1000, 1_000_000
"""Held-out pairs that the log's retrieval is of at most, and texts that a vocabulary is learnt from."""
FOLDER, WORDS = "clip", "tokenizer"
"""What a run leaves in its workdir: CLIP as transformers has it, and the tokenizer that it began with."""


@dataclasses.dataclass(frozen=True)
class TextTower:
    """The section ``text_model`` of a config; see ``marble.models.ClipText``."""

    width: int = 512
    num_layers: int = 12
    num_heads: int = 8


@dataclasses.dataclass(frozen=True)
class ImageTower:
    """The section ``image_model`` of a config; see ``marble.models.ClipVision``."""

    patch_size: int = 32
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12


@dataclasses.dataclass(frozen=True)
class ClipWords:
    """The section ``clip`` of a config."""

    projection: int = 512
    """Numbers of an embedding."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    captions: bool = True
    """Whether an image's text is its own, of the data; else it is made of its class."""
    template: str = "{}"
    """The text of a class; {} stands for its name."""
    remat: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerWords:
    """The section ``tokenizer`` of a config."""

    path: str | None = None
    """The folder of one; None learns a vocabulary from the training texts."""
    vocab_size: int = 49408
    max_length: int = 77
    """Tokens of a text, with its start and end."""


@dataclasses.dataclass(frozen=True)
class Contrastive(Plain):
    """CLIP's."""

    model: Clip
    tokenizer: Tokenizer
    image: ImageSpec
    words: ClipWords
    class_texts: tuple[str, ...]
    """Of classes, where images have no texts of their own."""
    batch_size: int
    accumulate: int

    draws = False
    sections: ClassVar[Mapping[str, Section]] = {
        "model": Section({"name": {"clip": Clip}, "dtype": DTYPES}),
        "clip": Section(constructors=(ClipWords,), is_optional=True),
        "text_model": Section(constructors=(TextTower,), is_optional=True),
        "image_model": Section(constructors=(ImageTower,), is_optional=True),
        "tokenizer": Section(constructors=(TokenizerWords,), is_optional=True),
        "sampling": Section(is_optional=True),
    }

    @classmethod
    def build(cls, reading: Reading, given: Given) -> "Contrastive":
        """The objective of a config; a vocabulary is learnt unless the config or the run's folder has one."""
        words = reading.make("clip", ClipWords)
        height, width, channels = given.image.shape
        if height != width or channels not in (1, 3):
            raise InputError(
                f"images of {list(given.image.shape)}: CLIP reads squares, grey or RGB; set data.image_size"
            )
        if not words.captions and not given.class_names:
            raise InputError("clip.captions is off, and the data have no classes to make texts of: set it")
        tokenizer = _tokenizer(reading.make("tokenizer", TokenizerWords), words, given)
        shared = dict(projection=words.projection, dtype=reading.named("model", "dtype"), remat=words.remat)
        text = ClipText(
            vocab_size=tokenizer.vocab_size,
            max_length=tokenizer.max_length,
            eos_token_id=tokenizer.end,
            **dataclasses.asdict(reading.make("text_model", TextTower)),
            **shared,
        )
        vision = ClipVision(image_size=height, **dataclasses.asdict(reading.make("image_model", ImageTower)), **shared)
        if vision.patch_size > height:
            raise InputError(
                f"image_model.patch_size={vision.patch_size} is larger than the images, {height}: lower it"
            )
        return cls(
            model=Clip(text, vision),
            tokenizer=tokenizer,
            image=given.image,
            words=words,
            class_texts=() if words.captions else _class_texts(words, given.class_names),
            batch_size=given.training.batch_size,
            accumulate=given.training.accumulate,
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The label, where texts are those of classes."""
        return () if self.words.captions else ("label",)

    def check(self) -> None:
        """InputError for micro-batches: each would be a batch of its own to tell pairs from."""
        if self.accumulate > 1:
            raise InputError(
                f"training.accumulate={self.accumulate}: the loss of CLIP is of the whole batch, and micro-batches are "
                "not told from each other: set it to 1, or clip.remat=True for memory"
            )

    def read(self, examples: Examples, origin: Origin | None) -> Examples:
        """The examples with the tokens of their texts, and which texts are equal."""
        del origin
        return examples.with_text_arrays(self._text_arrays) if self.words.captions else examples

    def _text_arrays(self, texts: Sequence[str]) -> Mapping[str, np.ndarray]:
        return {"tokens": self.tokenizer.encode(texts)[0]}

    def init_params(self, key: Array) -> Any:
        """The initial parameters, with the sigmoid's bias where that is the loss."""
        tokens = jnp.zeros((1, self.tokenizer.max_length), jnp.int32)
        size = self.model.vision.image_size
        params = self.model.init(key, tokens, jnp.zeros((1, size, size, 3), jnp.float32))["params"]
        if self.words.loss == "softmax":
            return {"clip": params}
        scale = jnp.float32(math.log(SIGMOID_SCALE))
        return {"clip": {**params, "logit_scale": scale}, "bias": jnp.float32(SIGMOID_BIAS)}

    def loss_fn(self, *, train: bool, across: Across = WHOLE) -> LossFn:
        """The loss over the whole batch, whatever devices its parts are on."""
        del train  # the towers have no dropout

        def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
            del key
            mask = batch.get("mask", jnp.ones(batch["index"].shape, jnp.float32))
            apply = lambda half, rows: self.model.apply({"params": params["clip"]}, rows, method=half)  # noqa: E731
            tokens = self._tokens(batch)
            images, texts = apply("encode_image", seen(batch["image"])), apply("encode_text", tokens)
            pairs = contrastive.Pairs(
                *(images, texts, across.gathered(images), across.gathered(texts)),
                (tokens[:, None] == across.gathered(tokens)[None]).all(axis=-1),
            )
            scale = jnp.exp(contrastive.at_most(params["clip"]["logit_scale"], math.log(MOST_SCALE)))
            losses = self._losses(params)(pairs, scale)
            sums = {"contrastive": losses @ mask, "scale": scale * mask.sum(), "count": mask.sum()}
            return losses.mean(), sums

        return loss_fn

    def _losses(self, params: Any) -> Callable[[contrastive.Pairs, Array], Array]:
        if self.words.loss == "softmax":
            return contrastive.softmax
        return functools.partial(contrastive.sigmoid, bias=params["bias"])

    def _tokens(self, batch: Batch) -> Array:
        if self.words.captions:
            return batch["tokens"]
        return jnp.asarray(self.tokenizer.encode(self.class_texts)[0])[batch["label"]]

    def sums(self) -> Mapping[str, Array]:
        """The metrics of the loss over nothing."""
        return {name: no_sum() for name in ("contrastive", "scale", "count")}

    def log(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The temperature, by which similarities are divided."""
        return {"temperature": float(sums["count"] / sums["scale"])}

    def loss_and_count(self, sums: Mapping[str, Any]) -> tuple[Any, Any]:
        """The sum of the loss over the images of such sums, and their number."""
        return sums["contrastive"], sums["count"]

    def pipeline(self, params: Any, *, mapping: DeviceMapping, guide: Any = None, classifier: Any = None) -> Any:
        """CLIP with these parameters."""
        refuse_guides("a CLIP", guide, classifier)
        params = None if params is None else params["clip"]
        options = dict(tokenizer=self.tokenizer, image=self.image, batch_size=self.batch_size, mapping=mapping)
        return ClipPipeline(model=self.model, params=params, **options)

    def grid(self, pipe: Any, params: Any, held_out: Any, *, num: int, seed: int) -> None:
        """There are no images to show."""

    def judged(self, pipe: ClipPipeline, params: Any, held_out: Examples) -> Mapping[str, float]:
        """How often the right text of held-out images is found, and the right image."""
        images, texts = evenly(held_out, MOST_JUDGED), self._texts_of(held_out)
        return pipe.retrieval(images, texts, params=params["clip"])

    def _texts_of(self, examples: Examples) -> list[str]:
        """The texts of the images that ``evenly`` takes."""
        if self.words.captions:
            return examples.texts(MOST_JUDGED)
        num = min(MOST_JUDGED, len(examples))
        return [self.class_texts[int(examples[i * len(examples) // num]["label"])] for i in range(num)]

    def keep(self, folder: Path) -> None:
        """The tokenizer, by which a run goes on and is used."""
        if not (epath.Path(folder) / WORDS).exists():
            with replaced_folder(epath.Path(folder) / WORDS) as made:
                self.tokenizer.save(made)

    def publish(self, folder: Path, pipe: ClipPipeline, params: Any, source: Source) -> None:
        """Leaves CLIP and its tokenizer in the workdir's folder ``clip``, as transformers has them."""
        found = fetch(params["clip"])
        found = {**found, "logit_scale": np.minimum(found["logit_scale"], np.float32(math.log(MOST_SCALE)))}
        if agreement.is_first():
            with replaced_folder(epath.Path(folder) / FOLDER) as made:
                write_part(made, clip_names.config_of(self.model), clip_names.table(self.model), found)
                self.tokenizer.save(made)


def _class_texts(words: ClipWords, class_names: Sequence[str]) -> tuple[str, ...]:
    return tuple(words.template.replace("{}", name) for name in class_names)


def _tokenizer(words: TokenizerWords, clip: ClipWords, given: Given) -> Tokenizer:
    """The tokenizer of the config's folder, or the one that the run began with, or a new one."""
    if words.path is not None:
        return Tokenizer.open(os.path.expanduser(words.path), max_length=words.max_length)
    kept = None if given.folder is None else epath.Path(given.folder) / WORDS
    if kept is not None and kept.exists():
        with local_folder(kept) as folder:
            return Tokenizer.open(folder, max_length=words.max_length)
    if given.texts is None and clip.captions:
        where = "" if kept is None else f", and the run's own, {kept}, is not there"
        raise InputError(f"no texts are at hand to learn a vocabulary from{where}: set tokenizer.path")

    def learnt() -> dict[str, Any]:
        texts = given.texts(MOST_TEXTS) if clip.captions else _class_texts(clip, given.class_names)
        return tokenizer_training.learnt(texts, words.vocab_size)

    return tokenizer_training.tokenizer_of(agreement.from_first(learnt), max_length=words.max_length)
