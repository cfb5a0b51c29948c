"""The protocol of a conditioner: what a model is told beside x_t and t, in training and when images are asked for.

A context is a mapping of arrays [b ...] that only the network reads. Between the data and the network, and between
a request and the network, nothing else knows its keys: losses, guidance and pipelines hand it on.

A conditioner is a pytree (``flax.struct.dataclass``): the parameters of an encoder that it has are its leaves, so that
programs take it as an argument, and all else about it is static.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import flax.linen as nn

from marble.data.examples import Examples
from marble.errors import InputError
from marble.schema import Reading, Section
from marble.typing import Array, Batch, Context, ImageSpec, Rows

Request = Mapping[str, Any]
"""What is asked of a pipeline by keywords beside seed, steps and their like: ``labels``. None is not asked."""
NOTHING_ASKED: Request = MappingProxyType({})


class Conditioner(Protocol):
    """One kind of context. Its methods are called within compiled programs unless they say *host*."""

    sections: ClassVar[Mapping[str, Section]]
    """Its keys of a config's sections."""
    keys: Sequence[str]
    """What a batch of data must hold, beside the images: of what ``marble.data`` puts into batches."""
    requests: Sequence[str]
    """The keywords of a request that it reads; none is needed unless a model has no null context."""
    against: Sequence[str]
    """Those of them that only say what guidance goes away from, in place of the null context."""
    asks: str
    """What it asks for, in words: 'a label'."""
    has_null: bool
    """Whether the model is trained without the context too, some of the time: then it can sample without it, and
    classifier-free guidance goes away from there."""
    null_remedy: str
    """What to change where ``has_null`` is needed: ends the sentence 'this needs ...'."""

    @classmethod
    def build(
        cls, reading: Reading, model: nn.Module, class_names: Sequence[str] | None, image: ImageSpec
    ) -> "Conditioner":
        """*host* The conditioner of a config with this model, of such images, whose classes have these names."""

    def context(self, batch: Batch, key: Array, *, train: bool) -> Context:
        """What the model is told of a batch; in training some images get the null context, by their own keys."""

    def read(self, examples: Examples) -> Examples:
        """*host* The examples with the arrays that ``context`` reads of a batch beside the data's own."""

    def null(self, batch_size: int) -> Context:
        """What stands for no context: {} for a model that is never told anything."""

    def of_rows(self, rows: Batch) -> Context:
        """The context of what ``of_request`` gave, or of a batch of data."""

    def null_of_rows(self, rows: Batch) -> Context:
        """What guidance goes away from for such rows: the null context, of one image for all or of each."""

    def of_request(self, num: int, request: Request, image: ImageSpec) -> Rows:
        """*host* What num such images need of a request, [num ...]; InputError for what is missing or can't be read."""

    def of_context(self, num: int, context: Context) -> Context:
        """*host* A context that somebody made for num images: checked, and where it says nothing, null."""

    def examples(self, num: int, held_out: Examples | None = None) -> Request:
        """*host* A request for num images that shows what there is, or that is made of held-out examples.

        It is for the grids drawn in training.
        """

    def check_batch(self, batch: Rows) -> None:
        """*host* InputError for a batch of data that the model can't be told of."""

    def check_data(self, name: str, num_classes: int | None) -> None:
        """*host* InputError where the data set of that name does not have what the model is to be told."""


def refuse_unread(request: Request, read: Sequence[str] = ()) -> None:
    """InputError for a keyword of a request that is not read, unless it is None."""
    for name, value in request.items():
        if name not in read and value is not None:
            kinds = f" (it reads {', '.join(read)})" if read else ""
            raise InputError(f"{name}={value!r} given, but this model was trained without {name}{kinds}: leave it out")
