"""The conditioner of text-to-image models: ``text`` [b l c], the states of frozen encoders.

In training the text of an image is its caption, or is made of the name of its class, by a template; without classes
it is the same for all. A share of the texts is replaced by the empty one, so that guidance has somewhere to go away
from; an image whose caption is empty is always told that.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marble.conditioning.conditioner import Request, refuse_unread
from marble.conditioning.text_encoder import States, TextEncoder, common_length
from marble.convert.text import open_text_encoder
from marble.data.examples import Examples
from marble.data.preprocess import example_keys
from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.schema import DTYPES, Reading, Section
from marble.typing import Array, Batch, Context, ImageSpec, Rows


@dataclasses.dataclass(frozen=True)
class TextWords:
    """The section ``text`` of a config."""

    encoders: Sequence[str]
    """Folders of the encoders, of which the states are joined: a CLIP's or BERT's, with config.json and weights."""
    tokenizers: Sequence[str]
    """The folders of their tokenizers."""
    states: States = "last"
    max_length: int | None = None
    """Tokens that are read of a text, with its start and end; None is all that the encoders can read."""
    zero_null: bool = False
    """Whether no text is told as zeros in place of the empty text's states, as SDXL is trained."""
    captions: bool = False
    """Whether the text of an image in training is its own, of the data."""
    template: str = "{}"
    """Where it is not: the text; {} stands for the name of the image's class."""
    text_dropout: float = 0.1
    """How often a text is replaced by the empty one in training."""
    prompts: Sequence[str] = ()
    """The texts of the grids that are drawn in training; by default those of the first classes, with captions none."""

    def __post_init__(self) -> None:
        if not 0 <= self.text_dropout <= 1:
            raise InputError(f"text.text_dropout={self.text_dropout} must be between 0 and 1")
        if len(self.encoders) != len(self.tokenizers) or not self.encoders:
            raise InputError(
                f"text.tokenizers={tuple(self.tokenizers)} must be one for each of the {len(self.encoders)} encoders"
            )
        if self.captions and self.template != "{}":
            raise InputError(f"text.template={self.template!r} is of classes, and text.captions is set: leave one out")


@struct.dataclass
class Text:
    """One text an image, told by the states of frozen encoders."""

    params: tuple[Any, ...]
    """Of each encoder."""
    encoders: tuple[TextEncoder, ...] = struct.field(pytree_node=False)
    image: ImageSpec = struct.field(pytree_node=False)
    """Of the images that it is trained on."""
    class_texts: tuple[str, ...] = struct.field(pytree_node=False, default=("",))
    """The text of each class in training, or the one for all."""
    captions: bool = struct.field(pytree_node=False, default=False)
    """Whether in training each image has a text of its own."""
    text_dropout: float = struct.field(pytree_node=False, default=0.1)
    prompts: tuple[str, ...] = struct.field(pytree_node=False, default=())
    zero_null: bool = struct.field(pytree_node=False, default=False)
    tells_size: bool = struct.field(pytree_node=False, default=False)
    """Whether the model is also told one vector of the text, and sizes: SDXL."""

    requests = ("text", "negative_text")
    against = ("negative_text",)
    asks = "a text"
    has_null = True
    null_remedy = "a model that is told of texts"
    sections: ClassVar[Mapping[str, Section]] = {"text": Section({"dtype": DTYPES}, (TextWords,))}

    @classmethod
    def build(cls, reading: Reading, model: nn.Module, class_names: Sequence[str] | None, image: ImageSpec) -> "Text":
        """The conditioner of a config; it reads the encoders' weights."""
        words = reading.make("text", TextWords)
        if getattr(model, "text_channels", None) is None:
            raise InputError(
                "conditioner='text' is for models that read it: set model.name='conditional_unet', or model.name='dit' "
                "and model.text_channels"
            )
        dtype = reading.named("text", "dtype")
        models, params = zip(*(open_text_encoder(path, dtype=dtype) for path in words.encoders), strict=True)
        length = common_length(words.max_length, [encoder.max_length for encoder in models])
        pairs = zip(models, (Tokenizer.open(path, max_length=length) for path in words.tokenizers), strict=True)
        built = cls(
            params=params,
            encoders=tuple(TextEncoder(encoder, tokenizer, words.states) for encoder, tokenizer in pairs),
            image=image,
            class_texts=_class_texts(words, class_names),
            captions=words.captions,
            text_dropout=words.text_dropout,
            prompts=tuple(words.prompts),
            zero_null=words.zero_null,
            tells_size=getattr(model, "pooled_channels", None) is not None,
        )
        built.check_model(model)
        return built

    @property
    def keys(self) -> tuple[str, ...]:
        """The label, where a class has a text of its own."""
        return ("label",) if len(self.class_texts) > 1 else ()

    def context(self, batch: Batch, key: Array, *, train: bool) -> Context:
        """What is said of the texts, in training each replaced by the empty one with probability text_dropout."""
        count = batch["index"].shape[0]
        told = self._told_of_captions(batch) if self.captions else self._told_of_classes(batch, count)
        if train:
            keys = example_keys(key, batch)
            told = self._or_null(
                told, jax.vmap(lambda k: jax.random.bernoulli(k, jnp.float32(self.text_dropout)))(keys)
            )
        return {**told, **self._size(jnp.asarray(_sizes(count, self.image)))}

    def _told_of_captions(self, batch: Batch) -> dict[str, Array]:
        told = self._told([batch[name] for name in _names(self.encoders)])
        if not self.zero_null:
            return told  # what is said of an empty caption is the null context
        is_empty = (batch["tokens_0"] == jnp.asarray(self.encoders[0].null_tokens())[None]).all(axis=1)
        return self._or_null(told, is_empty)

    def _or_null(self, told: Mapping[str, Array], is_null: Array) -> dict[str, Array]:
        """What is said, or the null context where an image's is_null [b] is true."""
        null = self.null(1)
        return {name: _where(is_null, null[name], value) for name, value in told.items()}

    def _told_of_classes(self, batch: Batch, count: int) -> dict[str, Array]:
        label = batch["label"] if self.keys else jnp.zeros(count, jnp.int32)
        tokens = [jnp.asarray(encoder.tokens(self.class_texts)) for encoder in self.encoders]
        if len(self.class_texts) < count:  # each is encoded once
            return {name: value[label] for name, value in self._told(tokens).items()}
        return self._told([ids[label] for ids in tokens])

    def read(self, examples: Examples) -> Examples:
        """The examples with the tokens of their captions, where it is told of these."""
        if not self.captions:
            return examples
        return examples.with_text_arrays(
            lambda texts: {n: _rows(e, texts) for n, e in zip(_names(self.encoders), self.encoders, strict=True)}
        )

    def null(self, batch_size: int) -> Context:
        """What is said of the empty text."""
        told = self._told([jnp.asarray(encoder.null_tokens())[None] for encoder in self.encoders])
        told = _without_words(told) if self.zero_null else told
        told |= self._size(jnp.asarray(_sizes(1, self.image)))
        return jax.tree.map(lambda x: jnp.repeat(x, batch_size, axis=0), told)

    def of_rows(self, rows: Batch) -> Context:
        """What is said of their tokens, or of a batch of data's classes."""
        if "size" not in rows:
            return self.context(rows, None, train=False)
        told = self._told([rows[name] for name in _names(self.encoders)])
        return {**told, **self._size(rows["size"])}

    def null_of_rows(self, rows: Batch) -> Context:
        """What is said of the negative texts."""
        told = self._told([rows[f"negative_tokens_{i}"] for i in range(len(self.encoders))])
        if self.zero_null:
            null = _without_words(told)
            told = {name: _where(rows["is_null"], null[name], value) for name, value in told.items()}
        return {**told, **self._size(rows["size"])}

    def of_request(self, num: int, request: Request, image: ImageSpec) -> Rows:
        """``text`` and ``negative_text``: one for all images, or one an image; None is the empty one."""
        refuse_unread(request, self.requests)
        texts, negative = (_texts(name, request.get(name), num) for name in self.requests)
        rows = {"size": _sizes(num, image), "is_null": np.full(num, request.get("negative_text") is None)}
        for i, encoder in enumerate(self.encoders):
            rows[f"tokens_{i}"], rows[f"negative_tokens_{i}"] = _rows(encoder, texts), _rows(encoder, negative)
        return rows

    def of_context(self, num: int, context: Context) -> Context:
        """A context that somebody made, or the empty text's."""
        return context or self.null(num)

    def examples(self, num: int, held_out: Examples | None = None) -> Request:
        """The prompts of the config, or the texts of the classes, in turn."""
        shown = self.prompts or self.class_texts
        return {"text": [shown[i % len(shown)] for i in range(num)]}

    def check_batch(self, batch: Rows) -> None:
        """InputError without the labels of the classes that have texts, or without the captions' tokens."""
        if self.captions and "tokens_0" not in batch:
            raise InputError("examples without texts: this model was trained with each image's own")
        if self.keys and "label" not in batch:
            raise InputError(f"examples without labels: this model was trained with {len(self.class_texts)} texts")

    def check_data(self, name: str, num_classes: int | None) -> None:
        """Any will do: texts are made of what names there are."""

    def check_model(self, model: nn.Module) -> None:
        """InputError unless the encoders say what the model reads."""
        found = sum(encoder.model.width for encoder in self.encoders)
        if found != model.text_channels:
            raise InputError(
                f"text.encoders have {found} channels in all, and model.text_channels={model.text_channels}: set that"
            )
        vectors = [p for p in (getattr(encoder.model, "projection", None) for encoder in self.encoders) if p]
        if self.tells_size and vectors[-1:] != [model.pooled_channels]:
            found = f"one of {vectors[-1]} channels" if vectors else "none"
            raise InputError(
                f"model.pooled_channels={model.pooled_channels} is of a text's vector, and text.encoders have {found}: "
                "give a CLIP with a projection of that size, or leave pooled_channels None"
            )

    def _told(self, tokens: Sequence[Array]) -> dict[str, Array]:
        """The encoders' words, joined."""
        said = [encoder(params, ids) for encoder, params, ids in zip(self.encoders, self.params, tokens, strict=True)]
        told = {"text": jnp.concatenate([words.text for words in said], axis=-1)}
        if said[0].mask is not None:
            told["text_mask"] = said[0].mask
        if self.tells_size:
            told["pooled_text"] = next(words.pooled for words in reversed(said) if words.pooled is not None)
        return told

    def _size(self, size: Array) -> dict[str, Array]:
        return {"size": size} if self.tells_size else {}


def _class_texts(words: TextWords, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The text of each class in training, or the one for all; InputError for a template that names no class."""
    if words.captions:
        return ("",)
    if "{}" not in words.template:
        return (words.template,)
    if not class_names and words.template != "{}":
        raise InputError(f"text.template={words.template!r} has a class's name, and the data have no classes")
    return tuple(words.template.replace("{}", name) for name in class_names or [""])


def _names(encoders: Sequence[TextEncoder]) -> list[str]:
    """What the tokens for each encoder are called in a batch or a request's rows."""
    return [f"tokens_{i}" for i in range(len(encoders))]


def _rows(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """The tokens of texts [n l], each text read once."""
    places = {text: i for i, text in enumerate(sorted(set(texts)))}
    return encoder.tokens(list(places))[[places[text] for text in texts]]


def _texts(name: str, asked: Any, num: int) -> list[str]:
    """One text an image; InputError for another number of them, or for what is none."""
    if asked is None or isinstance(asked, str):
        return [asked or ""] * num
    texts = list(asked) if isinstance(asked, Iterable) else [asked]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}={asked!r} must be a text, or a list of texts")
    if len(texts) != num:
        raise InputError(f"{len(texts)} texts as {name} for {num} images: give one for all or one an image")
    return texts


def _without_words(told: Mapping[str, Array]) -> dict[str, Array]:
    """Zeros for all that is said; which tokens are attended to stays."""
    return {name: value if name == "text_mask" else jnp.zeros_like(value) for name, value in told.items()}


def _sizes(num: int, image: ImageSpec) -> np.ndarray:
    """Original height and width, top and left of the cut, wanted height and width [num 6]: the whole image."""
    height, width, _ = image.shape
    return np.repeat(np.float32([[height, width, 0, 0, height, width]]), num, axis=0)


def _where(is_null: Array, null: Array, told: Array) -> Array:
    """null [1 ...] where an image's is_null [b] is true, else told [b ...]."""
    return jnp.where(is_null.reshape(-1, *[1] * (told.ndim - 1)), null, told)
