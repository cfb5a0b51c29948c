"""Small vocabularies in the formats of CLIP and BERT, made without marble, and folders of them as checkpoints have."""

import functools
import json
import random

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

START, END = "<|startoftext|>", "<|endoftext|>"
SENTENCES = (
    "a photo of a cat, sitting on a mat",
    "a painting of two dogs running in the snow at sunset, highly detailed",
    "it's the cat's mat and they're not what we've seen; I'll say I'm sure he'd know, don't you?",
    "the year 2024 has 366 days, 52 weeks and 8784 hours",
    "Ein Café in München, naïve façade, crème brûlée über Ångström",
    "snow-white rabbit!!! (studio lighting) -- 8k, f/1.4; 50% off...",
    "日本語の文章 と 한국어 문장 и русский текст",
    "smiling face 😀😃 with a family 👨‍👩‍👧 and a flag 🇫🇷",
)
SD_1 = {"content": END, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


@functools.cache
def symbols():
    """The 256 printable characters that stand for bytes, by their bytes: those that print, and 256, 257, ..."""
    printed = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    others = [b for b in range(256) if b not in printed]
    return {**{b: chr(b) for b in printed}, **{b: chr(256 + i) for i, b in enumerate(others)}}


@functools.cache
def clip_bpe(num_merges=300):
    """CLIP's vocabulary in its order of ids, and its merges, learnt from the sentences."""
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = list(symbols().values())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]][:num_merges]
    vocab = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *map("".join, merges), START, END]
    return {token: i for i, token in enumerate(vocab)}, merges


def write_clip(folder, *, config=None, special_map=None):
    """vocab.json and merges.txt, and the two other files where they are given."""
    vocab, merges = clip_bpe()
    lines = ["#version: 0.2", *map(" ".join, merges)]
    return write(folder, config, special_map, **{"vocab.json": vocab, "merges.txt": "\n".join(lines) + "\n"})


def bert_vocab():
    """BERT's tokens in their order: special ones, characters, characters within a word, words."""
    characters = sorted({c for sentence in SENTENCES for c in sentence.lower() + sentence if not c.isspace()})
    words = sorted({word for sentence in SENTENCES for word in sentence.lower().split() if word.isalpha()})
    endings = [f"##{ending}" for ending in ("ing", "ed", "s", "er", "ly")]
    special = ["[PAD]", *(f"[unused{i}]" for i in range(3)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *characters, *(f"##{c}" for c in characters), *words, *endings]))


def write_bert(folder, *, config=None, special_map=None):
    """vocab.txt, and the two other files where they are given."""
    return write(folder, config, special_map, **{"vocab.txt": "\n".join(bert_vocab()) + "\n"})


def write(folder, config, special_map, **files):
    folder.mkdir(parents=True, exist_ok=True)
    files |= {} if config is None else {"tokenizer_config.json": config}
    files |= {} if special_map is None else {"special_tokens_map.json": special_map}
    for name, value in files.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


def of_stable_diffusion(version):
    """The two files of its checkpoints: 1, 2 (whose files name different pads) and "xl" (its second tokenizer)."""
    vocab, _ = clip_bpe()
    start, end = ({**SD_1, "content": token} for token in (START, END))
    named = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": END}
    typed = {
        key: {"__type": "AddedToken", **token} if isinstance(token, dict) else token for key, token in named.items()
    }
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **typed}
    if version == 1:
        return {"config": config, "special_map": named}
    if version == 2:
        return {"config": config, "special_map": {**named, "pad_token": "!"}}
    flags = {"!": {**SD_1, "normalized": False}, START: SD_1, END: SD_1}
    decoder = {str(vocab[token]): {**flags[token], "content": token, "special": True} for token in flags}
    plain = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    return {"config": {**config, **plain, "added_tokens_decoder": decoder}, "special_map": {**named, "pad_token": "!"}}


def texts(seed=0, count=300):
    """Prompts of every kind, and random ones: of words, of characters of all planes, near 77 tokens."""
    rng = random.Random(seed)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    ranges = [(0, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x370, 0x5FF), (0x1E00, 0x20FF), (0x2100, 0x2FFF)]
    ranges += [(0x3000, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x1F000, 0x1FAFF), (0x10000, 0x10FFFF)]

    def characters(length):
        return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(length))

    made = [*SENTENCES, *HARD]
    made += [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(count // 3)]
    made += [characters(rng.randint(1, 40)) for _ in range(count // 3)]
    made += [" ".join(rng.choices([*words, characters(3), END, "!"], k=rng.randint(1, 20))) for _ in range(count // 3)]
    made += [" ".join(["cat"] * length) for length in range(70, 84)]
    return made


HARD = (
    *("", " ", "\n\t \u3000", "A", "!", "hello!", "hello !", "wow!!!", "'", "''s", "it''s", "'S 'LL", "IT'S THE CAT'S"),
    *("a  b   c", "  lead and trail  ", "tab\tnew\nline\r\nnbsp\u00a0end", "a\u2028b\u2029c\u0085d\x1ce"),
    *(
        "e\u0301 \u00e9 E\u0301",
        "a\u0300\u0301\u0302",
        "\u0301alone",
        "ﬁ ﬂ ½ ² ① Ⅷ",
        "ΣΑΣ ς",
        "İstanbul I ı ẞ ß",
        "Ǆ ǅ",
    ),
    *("日本語cat한국어", "漢字kanji", "नमस्ते", "สวัสดี", "שלום", "مرحبا", "👨‍👩‍👧‍👦", "🏳️‍🌈", "1️⃣", "🇫🇷🇩🇪", "é😀é"),
    *(
        "3.14159 1,000,000",
        "2nd 3rd",
        "v1.5-pruned",
        "x" * 300,
        "supercalifragilistic" * 20,
        "a" * 101 + " b",
        "1" * 100,
    ),
    *("\x00", "a\x00b", "\x07bell\x1b[0m", "\ufeffbom", "\u200bzero\u200dwidth", "\ufffd", "\U0010ffff", "a\u00adb"),
    *(END, START, f"a {END} b", f"{START}{END}", f"x{END}y", f"!{END}!", END.upper(), f"a {START.upper()} B", "<|end"),
    *(
        "[CLS] a [SEP]",
        "[MASK]",
        "[mask] [PAD]",
        "a[MASK]b",
        "[UNK]",
        "##ing",
        "</w>",
        "cat</w>",
        "a<pad>",
        "<cat-toy> x",
    ),
    *(
        "&amp; &lt;b&gt;",
        "a_b__c",
        "a-b—c",
        "“quoted” ‘single’ it’s",
        "http://x.y/z?q=1#f",
        "C++ C# .NET",
        "#tag @me",
        "$5 €7",
    ),
)
