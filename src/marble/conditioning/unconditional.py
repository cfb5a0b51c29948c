"""The conditioner of models that are told nothing but x_t and t."""

from flax import struct

from marble.conditioning.conditioner import Request, refuse_unread
from marble.data.examples import Examples
from marble.typing import Array, Batch, Context, ImageSpec, Rows


@struct.dataclass
class Unconditional:
    """No context."""

    keys = ()
    requests = ()
    against = ()
    asks = "a model that is told something"
    has_null = False
    null_remedy = "a model that was trained with and without labels (training.label_dropout)"

    def context(self, batch: Batch, key: Array, *, train: bool) -> Context:
        """Nothing."""
        del batch, key, train
        return {}

    def read(self, examples: Examples) -> Examples:
        """The examples as they are."""
        return examples

    def null(self, batch_size: int) -> Context:
        """Nothing."""
        del batch_size
        return {}

    def of_rows(self, rows: Batch) -> Context:
        """Nothing."""
        del rows
        return {}

    def null_of_rows(self, rows: Batch) -> Context:
        """Nothing."""
        del rows
        return {}

    def of_request(self, num: int, request: Request, image: ImageSpec) -> Rows:
        """Nothing; InputError where something is asked for."""
        del num, image
        refuse_unread(request)
        return {}

    def of_context(self, num: int, context: Context) -> Context:
        """The context, which the network itself refuses unless it reads it."""
        del num
        return context

    def examples(self, num: int, held_out: Examples | None = None) -> Request:
        """Nothing."""
        del num
        return {}

    def check_batch(self, batch: Rows) -> None:
        """Any will do."""

    def check_data(self, name: str, num_classes: int | None) -> None:
        """Any will do."""
