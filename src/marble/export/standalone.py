"""Draws images with the sampler that lies beside this file: jax and numpy are all that it needs.

  python sample.py --num 16 --seed 0 --out images.npz                arr_0, uint8 [num h w c]
  python sample.py --num 16 --label 3 --guidance_scale 2 --out images.png
  python sample.py --num 4 --text "a red fox" --out images.png       needs the package tokenizers too

Image i depends on the seed and i alone: --first 16 goes on where 16 images ended. sampler.json says what the program
reads; --rows FILE.npz gives its arguments ``rows.NAME`` by their names, a row an image or one for all, and --set
NAME=VALUE its numbers, such as guidance.rescale. From Python: Sampler(folder).draw(16, seed=0).
"""

import argparse
import dataclasses
import json
import struct
import sys
import zlib
from pathlib import Path

import jax
import jax.export
import ml_dtypes  # jax brings it
import numpy as np

DTYPES = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "I32": "int32", "U32": "uint32", "F16": "float16"},
    **{"F32": "float32", "F64": "float64", "I64": "int64", "BF16": ml_dtypes.bfloat16},
}
MOST = 2**32 - 1


class Fault(Exception):
    """What was asked for can't be done: one line that says why, and what to do."""


class Sampler:
    """The program of a folder, compiled for this machine's first device at its first call."""

    def __init__(self, folder):
        """Fault where a file is missing or damaged, or where this machine or this jax can't run the program."""
        self.folder = Path(folder)
        try:
            self.facts = json.loads((self.folder / "sampler.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Fault(f"{self.folder / 'sampler.json'} can't be read: {error}; export the model again") from error
        self.kinds = {argument["name"]: argument for argument in self.facts["arguments"]}
        backend = jax.default_backend()
        platform = {"gpu": "cuda"}.get(backend, backend)
        if platform not in self.facts["platforms"]:
            there = ",".join(self.facts["platforms"])
            raise Fault(f"the program is for {there}, and jax runs on {platform}: marble export --platforms {platform}")
        tensors = safetensors(self.file("weights.safetensors"))
        self.weights = jax.device_put({weight["name"]: tensors[weight["name"]] for weight in self.facts["weights"]})
        self.grids = safetensors(self.file("grids.safetensors"))
        self.program = self._compiled(platform)

    def draw(
        self, num, *, seed=0, first=0, steps=None, label=None, text=None, negative_text=None, rows=None, **numbers
    ):
        """num images: (uint8 [num h w c], the same as float32 in [-1, 1]).

        label is a class's number or name; text and negative_text one text or a list, an image's each; rows arrays by
        the names of the program's ``rows.NAME``; numbers its numbers by name, as ``**{"guidance.scale": 2.0}``.
        """
        for name, value in {"num": num - 1, "first": first, "seed": seed}.items():
            if not 0 <= value <= MOST - (num if name == "first" else 0):
                raise Fault(f"--{name} {value + (name == 'num')} is out of range: give a number of at most 32 bits")
        asked = {**self._label(label), **self._texts(text, negative_text, num), **(rows or {})}
        table = self._rows(asked, num) | {"rows.index": np.arange(first, first + num, dtype=np.uint32)}
        numbers = self._numbers(numbers) | {"seed": np.uint32(seed)} | self._grid(steps)
        size, parts = self.facts["batch_size"], []
        for start in range(0, num, size):
            batch = {name: filled(values[start : start + size], size) for name, values in table.items()}
            found = self.program(self.weights, {k: v for k, v in (batch | numbers).items() if k in self.kinds})
            parts.append([np.asarray(found["images"]), np.asarray(found["floats"])])
        return tuple(np.concatenate(part)[:num] for part in zip(*parts, strict=True))

    def file(self, name):
        """The bytes of a file; Fault unless they are those that were written."""
        path, known = self.folder / name, self.facts["files"][name]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Fault(f"{path} can't be read ({error.strerror}): copy the whole folder again") from error
        if [len(data), zlib.crc32(data)] != [known["size"], known["crc32"]]:
            raise Fault(f"{path} is damaged: it is not the file that was exported; copy it again")
        return data

    def _compiled(self, platform):
        """program(weights, arguments) -> results, compiled."""
        call = self._exported().call
        shapes = [{a["name"]: struct_of(a) for a in self.facts[kind]} for kind in ("weights", "arguments")]
        for options in (self.facts["compiler_options"].get(platform, {}), {}):
            try:
                return jax.jit(call, compiler_options=options).lower(*shapes).compile()
            except jax.errors.JaxRuntimeError as error:  # an XLA without such an option
                if not options:
                    raise Fault(f"XLA can't compile the program: {first_line(error)}") from error
            except (ValueError, NotImplementedError) as error:
                raise Fault(f"jax {jax.__version__} can't run the program: {first_line(error)}") from error

    def _exported(self):
        """The program as jax.export has it; without the package flatbuffers, put together by what sampler.json says."""
        facts, data = self.facts, self.file("sampler.jax_export")
        remedy = f"pip install jax=={facts['jax']}, which wrote it"
        try:
            import flatbuffers  # noqa: F401
        except ImportError:
            return self._put_together(data, f"pip install flatbuffers, or {remedy}")
        try:
            return jax.export.deserialize(bytearray(data))
        except Exception as error:  # of many kinds: another version's file
            raise Fault(f"jax {jax.__version__} can't read the program: {first_line(error)}; {remedy}") from error

    def _put_together(self, data, remedy):
        facts, (start, size) = self.facts, self.facts["stablehlo"]
        trees = [{a["name"]: struct_of(a) for a in facts[kind]} for kind in ("weights", "arguments", "results")]
        inputs, results = ((trees[0], trees[1]), {}), trees[2]
        # The abstract values of what goes in and comes out, by a function that does nothing.
        avals = [tuple(jax.make_jaxpr(lambda x: x)(tree).in_avals) for tree in (inputs, results)]
        values = {
            **dict(fun_name="sampler", nr_devices=1, platforms=tuple(facts["platforms"]), _get_vjp=None),
            **dict(in_tree=jax.tree.structure(inputs), in_avals=avals[0]),
            **dict(out_tree=jax.tree.structure(results), out_avals=avals[1], _has_named_shardings=True),
            **dict(_in_named_shardings=(None,) * len(avals[0]), in_shardings_hlo=(None,) * len(avals[0])),
            **dict(_out_named_shardings=(None,) * len(avals[1]), out_shardings_hlo=(None,) * len(avals[1])),
            **dict(ordered_effects=(), unordered_effects=(), disabled_safety_checks=()),
            **dict(mlir_module_serialized=bytes(data[start : start + size])),
            **dict(calling_convention_version=facts["calling_convention_version"]),
            **dict(module_kept_var_idx=tuple(facts["module_kept_var_idx"])),
            **dict(uses_global_constants=facts["uses_global_constants"]),
        }
        fields = [field.name for field in dataclasses.fields(jax.export.Exported)]
        if not set(fields) <= set(values):
            raise Fault(f"without flatbuffers, jax {jax.__version__} is not known to this program: {remedy}")
        return jax.export.Exported(**{name: values[name] for name in fields})

    def _grid(self, steps):
        """The noise levels of that many steps, as long as the program has room for."""
        steps, numbers = self.facts["steps"] if steps is None else steps, self.grids["numbers"]
        if steps not in numbers:
            raise Fault(f"--steps {steps} is none of those that were exported: give 1 to {numbers.max()}")
        start = int((numbers[numbers < steps] + 1).sum())
        part, grid = slice(start, start + steps + 1), {"num_steps": np.int32(steps)}
        for name in ("levels.t", "levels.alpha", "levels.sigma"):
            values = self.grids[name][part]
            if name in self.kinds:
                grid[name] = np.pad(values, (0, self.kinds[name]["shape"][0] - len(values)), mode="edge")
        return grid

    def _numbers(self, asked):
        """The single numbers of the program, those that are asked for in the place of the exported ones."""
        known = {name: kind for name, kind in self.kinds.items() if kind.get("is_number")}
        for name, value in asked.items():
            if name not in known:
                there = f"there are {', '.join(known)}" if known else "there are none"
                raise Fault(f"{name}={value} is no number that this model's sampler reads: {there}")
        return {name: np.asarray(asked.get(name, kind["default"]), kind["dtype"]) for name, kind in known.items()}

    def _rows(self, asked, num):
        """The program's rows [num ...]: those that are asked for, the exported ones for what is not told."""
        known = {
            n.removeprefix("rows."): k for n, k in self.kinds.items() if n.startswith("rows.") and n != "rows.index"
        }
        for name in asked:
            if name.removeprefix("rows.") not in known:
                raise Fault(f"this model reads no rows {name}: it reads {', '.join(known) or 'none'}")
        asked = {name.removeprefix("rows."): value for name, value in asked.items()}
        table = {}
        for name, kind in known.items():
            if name not in asked and kind["default"] is None:
                how = "give --label" if name == "label" else "give --rows"
                raise Fault(f"this model has to be told {name}: {how}")
            values, shape = np.asarray(asked.get(name, kind["default"])), tuple(kind["shape"][1:])
            if values.shape not in (shape, (1, *shape), (num, *shape)):
                raise Fault(f"rows {name} of shape {list(values.shape)}: give {[num, *shape]}, or one for all")
            table[f"rows.{name}"] = np.broadcast_to(values.astype(kind["dtype"]), (num, *shape))
        return table

    def _label(self, label):
        """The rows of a class, by its name or number."""
        if label is None:
            return {}
        facts = self.facts["told"].get("label")
        if facts is None:
            raise Fault(f"--label {label}: this model is told no label, leave it out")
        names = facts["class_names"] or []
        number = names.index(label) if label in names else label
        if not str(number).isdecimal() or int(number) >= facts["num_classes"]:
            known = f", or one of {', '.join(names[:10])}{' ...' if names[10:] else ''}" if names else ""
            raise Fault(f"--label {label} is no class: give 0 to {facts['num_classes'] - 1}{known}")
        return {"label": np.int32(number)}

    def _texts(self, text, negative, num):
        """The rows of texts: their tokens."""
        if text is None and negative is None:
            return {}
        if "text" not in self.facts["told"]:
            raise Fault("this model is told no text: leave --text and --negative_text out")
        try:
            import tokenizers
        except ImportError as error:
            raise Fault("texts are made tokens by the package tokenizers: install it, or give --rows") from error
        rows = {} if negative is None else {"is_null": np.bool_(False)}
        for i, facts in enumerate(self.facts["told"]["text"]):
            backend = tokenizers.Tokenizer.from_file(str(self.folder / facts["file"]))
            for name, texts in {"tokens": text, "negative_tokens": negative}.items():
                texts = [texts] if isinstance(texts, str) else texts
                if texts is not None:
                    ids = [row.ids for row in backend.encode_batch(list(texts), add_special_tokens=False)]
                    rows[f"{name}_{i}"] = np.array([padded(row, facts) for row in ids], np.int32)
        return {name: row for name, row in rows.items() if f"rows.{name}" in self.kinds}


def padded(ids, facts):
    """The tokens of a text between those of its start and end, cut or padded to the program's length."""
    ids = [facts["begin"], *ids[: facts["length"] - 2], facts["end"]]
    return ids + [facts["pad"]] * (facts["length"] - len(ids))


def filled(rows, size):
    """rows with the first one repeated until there are size of them."""
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


def struct_of(argument):
    """The shape and type of an argument that sampler.json describes."""
    dtype = ml_dtypes.bfloat16 if argument["dtype"] == "bfloat16" else argument["dtype"]
    return jax.ShapeDtypeStruct(tuple(argument["shape"]), dtype)


def safetensors(data):
    """The arrays of a safetensors file: 8 bytes of length, that many of JSON, and the numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays, data = {}, memoryview(data)
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def write_png(path, images):
    """One picture of the images uint8 [n h w c], c 1 or 3, beside and below each other."""
    n, h, w, c = images.shape
    columns = int(np.ceil(np.sqrt(n)))
    images = np.concatenate([images, np.zeros((-n % columns, h, w, c), np.uint8)])
    grid = images.reshape(-1, columns, h, w, c).swapaxes(1, 2).reshape(-1, columns * w * c)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns * w, len(grid), 8, {1: 0, 3: 2}[c], 0, 0, 0)
    lines = np.pad(grid, ((0, 0), (1, 0))).tobytes()  # each begins with its filter, none
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def first_line(error):
    """What an error says, briefly."""
    return (str(error).strip() or repr(error)).splitlines()[0][:300]


def asked_for(argv):
    """The words of the command line."""
    words = dict(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser(**words)
    parser.add_argument("--num", type=int, default=16, help="how many images")
    parser.add_argument("--seed", type=int, default=0, help="of the run of images")
    parser.add_argument("--first", type=int, default=0, help="index of the first image")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the export's)")
    parser.add_argument("--label", help="class of all images, its name or number")
    parser.add_argument("--text", action="append", help="what the images are of; several are taken in turn")
    parser.add_argument("--negative_text", action="append", help="what guidance goes away from")
    parser.add_argument("--guidance_scale", type=float, help="how far to go towards the label or text")
    parser.add_argument("--rows", help="FILE.npz of the program's rows, by name")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another number of the program"
    )
    parser.add_argument("--float", action="store_true", help="write float32 in [-1, 1], in an npz")
    parser.add_argument("--out", default="images.npz", help="FILE.npz or FILE.png")
    return parser.parse_args(argv)


def draw(words):
    """Draws and writes what the words of the command line ask for."""
    out, numbers = Path(words.out), {}
    if out.suffix not in (".npz", ".png") or (words.float and out.suffix == ".png"):
        raise Fault(f"--out {out}: give FILE.npz{'' if words.float else ' or FILE.png'}")
    for word in words.set:
        name, _, value = word.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise Fault(f"--set {word}: give NAME=NUMBER") from None
    if words.guidance_scale is not None:
        numbers["guidance.scale"] = words.guidance_scale
    try:
        rows = dict(np.load(words.rows)) if words.rows else {}
    except (OSError, ValueError) as error:
        raise Fault(f"--rows {words.rows} can't be read: {first_line(error)}") from error
    order = range(words.first, words.first + max(words.num, 0))
    told = {
        n: t and [t[i % len(t)] for i in order]
        for n, t in (("text", words.text), ("negative_text", words.negative_text))
    }
    asked = dict(seed=words.seed, first=words.first, steps=words.steps, label=words.label, rows=rows)
    images, floats = Sampler(Path(__file__).parent).draw(words.num, **asked, **told, **numbers)
    if out.suffix == ".png":
        write_png(out, images)
    else:
        np.savez(out, arr_0=floats if words.float else images)


def main(argv=None):
    """The program; returns its exit status."""
    try:
        draw(asked_for(argv))
    except (Fault, OSError) as error:
        print("sample.py:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
