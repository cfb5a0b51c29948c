"""The conditioner of class-conditional models: ``label`` [b] int32, 0..num_classes-1, and num_classes for no class."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marble.conditioning.conditioner import Conditioner, Request, refuse_unread
from marble.conditioning.unconditional import Unconditional
from marble.data.examples import Examples
from marble.data.preprocess import example_keys
from marble.errors import InputError
from marble.schema import Reading, Section, nearest
from marble.typing import Array, Batch, Context, ImageSpec, Rows

NUMBER = re.compile(r"[+-]?[0-9]+")


@dataclasses.dataclass(frozen=True)
class LabelWords:
    """What the section ``training`` of a config says of labels."""

    label_dropout: float = 0.0
    """How often a label is replaced by the null class, for models that are given labels."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise InputError(f"training.label_dropout={self.label_dropout} must be between 0 and 1")


@struct.dataclass
class Labels:
    """One class an image. With label_dropout 0 there is no null class: every image has to have a label."""

    num_classes: int = struct.field(pytree_node=False)
    label_dropout: float = struct.field(pytree_node=False, default=0.0)
    class_names: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)
    """In the order of the labels, where the data name them: a request may give them in place of numbers."""

    keys = ("label",)
    requests = ("labels",)
    against = ()
    asks = "a label"
    null_remedy = Unconditional.null_remedy
    sections: ClassVar[Mapping[str, Section]] = {"training": Section(constructors=(LabelWords,))}

    @classmethod
    def build(
        cls, reading: Reading, model: nn.Module, class_names: Sequence[str] | None, image: ImageSpec
    ) -> Conditioner:
        """The conditioner of a model: of ``model.num_classes`` classes, and unconditional where that is None."""
        del image
        words, num_classes = reading.make("training", LabelWords), getattr(model, "num_classes", None)
        if num_classes is not None:
            if words.label_dropout and not getattr(model, "has_null_class", True):
                raise InputError(
                    f"training.label_dropout={words.label_dropout} is for models with a row for no class: this "
                    f"{type(model).__name__} has none, set it to 0"
                )
            return cls(num_classes, words.label_dropout, class_names and tuple(class_names))
        if words.label_dropout:
            raise InputError(
                "training.label_dropout is for models with labels: set model.num_classes too, or leave it 0"
            )
        return Unconditional()

    @property
    def has_null(self) -> bool:
        """Whether the null class is trained."""
        return self.label_dropout > 0

    def context(self, batch: Batch, key: Array, *, train: bool) -> Context:
        """The labels, in training each replaced by the null class with probability label_dropout."""
        label = batch["label"]
        if train:
            is_null = jax.vmap(lambda k: jax.random.bernoulli(k, jnp.float32(self.label_dropout)))(
                example_keys(key, batch)
            )
            label = jnp.where(is_null, self.num_classes, label)
        return {"label": label}

    def read(self, examples: Examples) -> Examples:
        """The examples as they are."""
        return examples

    def null(self, batch_size: int) -> Context:
        """The null class."""
        return {"label": jnp.full(batch_size, self.num_classes, jnp.int32)}

    def of_rows(self, rows: Batch) -> Context:
        """Their labels."""
        return {"label": rows["label"]}

    def null_of_rows(self, rows: Batch) -> Context:
        """The null class, once for all."""
        del rows
        return self.null(1)

    def of_request(self, num: int, request: Request, image: ImageSpec) -> Rows:
        """``labels``: one class for all or one an image, by number or by name; None is the null class."""
        del image
        refuse_unread(request, self.requests)
        return {"label": self._numbers(request.get("labels"), num, highest=self.num_classes - 1)}

    def of_context(self, num: int, context: Context) -> Context:
        """``label``: numbers, of which the null class's may be one."""
        if isinstance(context.get("label"), jax.core.Tracer):  # a traced value can't be looked at
            return context
        return {**context, "label": self._numbers(context.get("label"), num, highest=self.num_classes)}

    def examples(self, num: int, held_out: Examples | None = None) -> Request:
        """The classes in turn."""
        return {"labels": np.arange(num) % self.num_classes}

    def check_batch(self, batch: Rows) -> None:
        """InputError without labels, or for others than the model's: an embedding takes any without a word."""
        if "label" not in batch:
            raise InputError(
                f"examples without labels: this model was trained with {self.num_classes} classes, give their labels"
            )
        low, high = batch["label"].min(), batch["label"].max()
        if low < 0 or high >= self.num_classes:
            raise InputError(f"labels from {low} to {high}: this model's are 0 to {self.num_classes - 1}")

    def check_data(self, name: str, num_classes: int | None) -> None:
        """InputError for data of other classes than the model's."""
        if self.num_classes != num_classes:
            remedy = f"set --config.model.num_classes={num_classes}" if num_classes else "leave model.num_classes out"
            found = f"{name} has {num_classes or 'no'} classes"
            raise InputError(f"model.num_classes={self.num_classes}, but {found}: {remedy}")

    def _numbers(self, labels: Any, num: int, *, highest: int) -> np.ndarray:
        """One label an image [num], from 0 to highest."""
        if labels is None and not self.has_null:
            raise InputError(
                f"this model was trained with labels only: give a label between 0 and {self.num_classes - 1}"
            )
        if labels is None:
            return np.full(num, self.num_classes, np.int32)
        labels = self._without_names(labels)
        if labels.shape not in ((), (num,)):
            raise InputError(f"{labels.size} labels for {num} images: give one for all or one an image")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() > highest:
            raise InputError(f"label {labels} is not a class between 0 and {self.num_classes - 1}")
        return np.broadcast_to(labels.astype(np.int32), (num,)).copy()

    def _without_names(self, labels: Any) -> np.ndarray:
        """The labels as an array of numbers: a text is a class's name, or else its number."""
        labels = labels.tolist() if getattr(getattr(labels, "dtype", None), "kind", None) in ("O", "U") else labels
        if isinstance(labels, str):
            return np.asarray(self._number(labels))
        if isinstance(labels, Sequence) and any(isinstance(label, str) for label in labels):
            return np.array([self._number(label) if isinstance(label, str) else label for label in labels])
        return np.asarray(labels)

    def _number(self, name: str) -> int:
        names = list(self.class_names or ())
        if name in names:
            return names.index(name)
        are_numbers = bool(names) and all(map(NUMBER.fullmatch, names))
        if NUMBER.fullmatch(name.strip()) and not are_numbers:  # which would be meant as names
            return int(name)
        known = nearest(name, names) if names else f"; its classes have no names: give 0 to {self.num_classes - 1}"
        raise InputError(f"label {name!r} is not a class{known}")
