"""A frozen text encoder: from texts to tokens on the host, from tokens to what the model is told in the program."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import numpy as np

from marble.data.tokenizer import Tokenizer
from marble.errors import InputError
from marble.models.clip import ClipText
from marble.typing import Array

States = Literal["last", "penultimate"]
"""What is read of CLIP: its last states, normalised, or those before the last block (SDXL)."""


class Told(NamedTuple):
    """What a text encoder says of tokens [b l]."""

    text: Array
    """A state a token [b l c]."""
    mask: Array | None
    """Which of them are of the text [b l], for encoders whose padding says nothing; None is all."""
    pooled: Array | None
    """One vector a text [b p], where the encoder has a projection."""


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """The network and its tokenizer; its parameters are its caller's."""

    model: nn.Module
    """A ``ClipText`` or a ``Bert``."""
    tokenizer: Tokenizer
    states: States = "last"

    def __post_init__(self) -> None:
        """InputError for a tokenizer of more tokens than the network knows, of which it would say nothing but NaNs."""
        if self.tokenizer.vocab_size > self.model.vocab_size:
            raise InputError(
                f"text.tokenizers have {self.tokenizer.vocab_size} tokens, and the encoder {self.model.vocab_size}: "
                "give each encoder its own tokenizer"
            )

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """*host* The tokens [n l] int32 of texts; a text that is too long is cut, with a warning."""
        return self.tokenizer.encode(list(texts))[0]

    def null_tokens(self) -> np.ndarray:
        """*host* The tokens [l] of the empty text."""
        return self.tokenizer.null_ids()

    def __call__(self, params: Any, tokens: Array) -> Told:
        """What is said of tokens [b l]."""
        if isinstance(self.model, ClipText):
            # Stable Diffusion's models were trained on all 77 states, those of the padding too.
            found = self.model.apply({"params": params}, tokens)
            text = found.last if self.states == "last" else found.penultimate
            return Told(text, None, found.embedding)
        mask = tokens != self.tokenizer.pad
        return Told(self.model.apply({"params": params}, tokens, mask), mask, None)


def common_length(asked: int | None, most: Sequence[int]) -> int:
    """Tokens of a text, by text.max_length and what each encoder can read; InputError where they don't go together."""
    if asked is None and len(set(most)) == 1:
        return most[0]
    if asked is None or not 2 <= asked <= min(most):
        raise InputError(
            f"text.max_length={asked} for encoders of at most {', '.join(map(str, most))} tokens: set it to between 2 "
            f"and {min(most)}"
        )
    return asked
