"""The tokenizer: CLIP's BPE beside its definition, BERT's pieces, cuts, texts that are none, trained ones."""

import logging

import numpy as np
import pytest
import tokenizers
import vocabularies
from clip_definition import expected_ids, prompts
from vocabularies import END, SENTENCES, START

from marble.data.tokenizer import Tokenizer
from marble.errors import InputError


def test_clip_is_its_definition(clip_folder):
    tokenizer = Tokenizer.open(clip_folder, max_length=4000)
    ids, mask = tokenizer.encode(prompts())
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (len(prompts()), 4000)
    for row, there, text in zip(ids, mask, prompts(), strict=True):
        assert row[there].tolist() == expected_ids(text), text
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        assert (row[~there] == tokenizer.pad).all()


def test_bert_finds_the_longest_pieces(bert_folder):
    tokenizer = Tokenizer.open(bert_folder, max_length=12)
    vocab = {token: i for i, token in enumerate(vocabularies.bert_vocab())}
    ids, mask = tokenizer.encode(["A Photo, sittinged 日本 ∂ [MASK]", ""])
    pieces = ["[CLS]", "a", "photo", ",", "sitting", "##ed", "日", "本", "[UNK]", "[MASK]", "[SEP]", "[PAD]"]
    assert ids.tolist() == [[vocab[piece] for piece in pieces], [vocab[p] for p in ["[CLS]", "[SEP]", *["[PAD]"] * 10]]]
    assert mask.sum(axis=1).tolist() == [11, 2]


def test_sizes_and_ids(clip_folder, bert_folder):
    vocab, _ = vocabularies.clip_bpe()
    tokenizer = Tokenizer.open(clip_folder)
    assert (tokenizer.max_length, tokenizer.vocab_size) == (77, len(vocab))
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (vocab[START], vocab[END], vocab[END])
    np.testing.assert_array_equal(tokenizer.null_ids(), [vocab[START], *[vocab[END]] * 76])
    assert tokenizer.null_ids().dtype == np.int32
    tokenizer = Tokenizer.open(bert_folder)
    assert (tokenizer.max_length, tokenizer.begin, tokenizer.end, tokenizer.pad) == (512, 5, 6, 0)


def test_no_text_is_fine(clip_folder):
    ids, mask = Tokenizer.open(clip_folder).encode([])
    assert ids.shape == mask.shape == (0, 77)


def test_texts_of_any_sequence(clip_folder):
    tokenizer = Tokenizer.open(clip_folder)
    expected, _ = tokenizer.encode(["a cat", "a mat"])
    for texts in (("a cat", "a mat"), np.asarray(["a cat", "a mat"]), iter(["a cat", "a mat"])):
        np.testing.assert_array_equal(tokenizer.encode(texts)[0], expected)


def test_equal_to_itself_alone(clip_folder):
    one, other = Tokenizer.open(clip_folder), Tokenizer.open(clip_folder)
    assert one == one and one != other and len({one, other, one}) == 2


def test_a_cut_keeps_the_end_and_says_what_was_dropped(clip_folder, caplog):
    tokenizer = Tokenizer.open(clip_folder, max_length=77)
    whole = "a red " + " ".join(["cat"] * 73)
    texts = [whole, f"{whole} On the  MAT 😀 in München ", whole.replace("a red", "a \n red", 1), f"{whole} cat"]
    room = len(expected_ids(whole))
    tokenizer = Tokenizer.open(clip_folder, max_length=room)
    with caplog.at_level(logging.DEBUG):
        ids, mask = tokenizer.encode([*texts, texts[1]])
    first = expected_ids(whole)
    np.testing.assert_array_equal(ids, [first] * 5)
    assert mask.all()
    messages = [record.getMessage() for record in caplog.records]
    assert {(record.levelname, record.name) for record in caplog.records} == {("WARNING", "marble.data.tokenizer")}
    start = "the prompt 'a red cat cat cat cat cat cat cat cat c ...' has"
    assert messages == [
        f"{start} {len(expected_ids(texts[1]))} tokens and {room} are read: dropped 'On the  MAT 😀 in München'",
        f"{start} {room + 1} tokens and {room} are read: dropped 'cat'",
    ]


def test_a_cut_within_a_word_and_a_long_one(clip_folder, caplog):
    tokenizer = Tokenizer.open(clip_folder, max_length=5)
    tokenizer.encode(["zqzqzq!", "7" * 1000, "a 🐉🐉"])
    first, second, third = [record.getMessage() for record in caplog.records]
    count = len(expected_ids("zqzqzq!"))
    assert first == f"the prompt 'zqzqzq!' has {count} tokens and 5 are read: dropped 'qzq!'"
    assert "has 1002 tokens and 5 are read: dropped '777" in second and len(second) < 350
    # Of the four bytes of the first one the last is not read
    count = len(expected_ids("a 🐉🐉"))
    assert third == f"the prompt 'a 🐉🐉' has {count} tokens and 5 are read: dropped '🐉🐉'"


@pytest.mark.parametrize(
    "texts, message",
    [
        ("a cat", r"texts='a cat' must be a list of texts: write \[text\]"),
        (b"a cat", "must be a list of texts"),
        (None, "texts=None must be a list of texts"),
        (["a", None], "the text None is a NoneType: it must be a str"),
        (["a", 3], "the text 3 is a int"),
        ([["a", "b"]], r"the text \['a', 'b'\] is a list"),
        ([b"a"], "the text b'a' is a bytes"),
        (["a \ud83d b"], "has half a character"),
    ],
)
def test_what_is_no_text_is_refused(clip_folder, texts, message):
    with pytest.raises(InputError, match=message):
        Tokenizer.open(clip_folder).encode(texts)


@pytest.mark.parametrize("max_length", [1, 0, -3, 7.5, "77", True])
def test_a_length_must_hold_begin_and_end(clip_folder, max_length):
    with pytest.raises(InputError, match=f"max_length={max_length!r} must be a whole number of at least 2"):
        Tokenizer.open(clip_folder, max_length=max_length)


def test_a_trained_one_gets_its_begin_and_end(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(special_tokens=["<", ">", "[UNK]", "_"], show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    tokenizer = Tokenizer(backend, begin="<", end=">", pad="_", max_length=6)
    expected = [0, *(backend.token_to_id(word) for word in ("a", "photo", "of")), 1, 3]
    assert tokenizer.encode(["a photo of"])[0].tolist() == [expected]
    tokenizer.save(tmp_path)
    assert Tokenizer.open(tmp_path).encode(["a photo of"])[0].tolist() == [expected]
    with pytest.raises(InputError, match="the token '!!' is not in the vocabulary"):
        Tokenizer(backend, begin="<", end="!!", pad="_", max_length=6)
    with pytest.raises(InputError, match=r"the tokens around a text are \[0, 1\], and not \[1, 0\]"):
        Tokenizer(backend, begin=">", end="<", pad="_", max_length=6)
