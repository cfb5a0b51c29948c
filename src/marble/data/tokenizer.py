"""Text to token ids, on the host: CLIP's byte-level BPE and BERT's WordPiece, as transformers does it.

The vocabulary and its pipeline come from a checkpoint's own folder (``tokenizer_files`` reads and writes them) or from
the trainers of the ``tokenizers`` library.
"""

import logging
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import processors

from marble.data import tokenizer_files
from marble.errors import InputError

logger = logging.getLogger(__name__)

MOST_SHOWN = 200
"""Characters of a text that a message shows."""
SHOWN_OF_PROMPT = 40
"""Characters of a prompt that say which it is."""


class Tokenizer:
    """Texts to ids and masks of one length; equal to itself alone, so that it can be static in a compiled program."""

    def __init__(self, backend: tokenizers.Tokenizer, *, begin: str, end: str, pad: str, max_length: int):
        """Takes backend over, a trained one or one that was read; begin, end and pad are tokens of its vocabulary.

        InputError for a token that is not in it, for a max_length below 2, and where backend puts other tokens around
        a text than begin and end.
        """
        if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 2:
            raise InputError(
                f"max_length={max_length!r} must be a whole number of at least 2: begin and end are tokens"
            )
        self._backend, self._tokens, self._max_length = backend, (begin, end, pad), max_length
        self._begin, self._end, self._pad = (self._id_of(token) for token in self._tokens)
        self._vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        if self._vocab_size > 2**31:
            raise InputError(f"the vocabulary has the id {self._vocab_size - 1}: ids must be below {2**31}")
        self._set_up()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, max_length: int | None = None) -> "Tokenizer":
        """The tokenizer of a checkpoint's folder: tokenizer.json, or CLIP's vocab.json and merges.txt, or BERT's
        vocab.txt, with what tokenizer_config.json and special_tokens_map.json say.

        max_length None takes the folder's model_max_length, or 77 for CLIP and 512 for BERT where that says nothing.
        InputError, one line that names the folder or the file, for all that is wrong or not supported.
        """
        read = tokenizer_files.read(folder)
        max_length = read.max_length if max_length is None else max_length
        try:
            return cls(read.backend, begin=read.begin, end=read.end, pad=read.pad, max_length=max_length)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from error

    @property
    def max_length(self) -> int:
        """Tokens of a row, with begin and end."""
        return self._max_length

    @property
    def vocab_size(self) -> int:
        """Rows that a table of embeddings needs: 1 + the highest id."""
        return self._vocab_size

    @property
    def begin(self) -> int:
        """The id before a text."""
        return self._begin

    @property
    def end(self) -> int:
        """The id after a text."""
        return self._end

    @property
    def pad(self) -> int:
        """The id after the end, up to max_length; for Stable Diffusion 1 it is that of the end."""
        return self._pad

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """ids [n max_length] int32 and mask [n max_length] bool, which is True from begin to end.

        A text that is too long is cut, its end token kept, and a warning shows what was dropped. InputError for what
        is no sequence of texts.
        """
        texts = _checked(texts)
        rows = self._backend.encode_batch(texts, add_special_tokens=False)
        room = self._max_length - 2
        ids = np.full((len(rows), self._max_length), self._pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, row in enumerate(rows):
            kept = [self._begin, *row.ids[:room], self._end]
            ids[i, : len(kept)], mask[i, : len(kept)] = kept, True
        cut = {text: row for text, row in zip(texts, rows, strict=True) if len(row.ids) > room}
        for text, row in cut.items():  # once for all copies of a text
            # The characters of a token, which may be a part of a word, and of an emoji
            dropped = text[row.offsets[room][0] :].strip()
            logger.warning(
                "the prompt %s has %d tokens and %d are read: dropped %s",
                *(_shown(text, SHOWN_OF_PROMPT), len(row.ids) + 2, self._max_length, _shown(dropped, MOST_SHOWN)),
            )
        return ids, mask

    def null_ids(self) -> np.ndarray:
        """The ids [max_length] int32 of the empty text, which guidance without a classifier takes for no prompt."""
        return self.encode([""])[0][0]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files that ``open`` and transformers read: tokenizer.json, tokenizer_config.json,
        special_tokens_map.json, and for CLIP vocab.json and merges.txt."""
        begin, end, pad = self._tokens
        read = tokenizer_files.Read(self._backend, begin=begin, end=end, pad=pad, max_length=self._max_length)
        tokenizer_files.write(folder, read)

    def _id_of(self, token: str) -> int:
        found = self._backend.token_to_id(token)
        if found is None:
            raise InputError(f"the token {_shown(token, MOST_SHOWN)} is not in the vocabulary: add it, or name another")
        return found

    def _set_up(self) -> None:
        """Rows are cut and padded here, so that a cut is seen; begin and end are put around a text by others' too."""
        self._backend.no_truncation()
        self._backend.no_padding()
        around = self._backend.encode("").ids
        if not around:
            begin, end, _ = self._tokens
            self._backend.post_processor = processors.TemplateProcessing(
                single=[begin, "$A", end],
                pair=[begin, "$A", end, "$B:1", f"{end}:1"],
                special_tokens=[(begin, self._begin), (end, self._end)],
            )
        elif around != [self._begin, self._end]:
            raise InputError(
                f"the tokens around a text are {around}, and not {[self._begin, self._end]}, which begin and end it: "
                "correct the post_processor of tokenizer.json or the names of the special tokens"
            )


def _checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list; InputError for anything else, and for what no UTF-8 can hold."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts={_shown(texts, MOST_SHOWN)} must be a list of texts: write [text]")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"the text {_shown(text, MOST_SHOWN)} is a {type(text).__name__}: it must be a str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = _shown(text, MOST_SHOWN)
            raise InputError(f"the text {shown} has half a character (a lone surrogate): decode it again") from error
    return [str(text) for text in texts]  # NumPy's are of a class of their own


def _shown(value: object, most: int) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]} ...{text[0] if isinstance(value, str) else ''}"
