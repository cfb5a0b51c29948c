"""benchmarks/results/gpu.md and the README's table, of the results of one run or several."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
BEGIN, END = "<!-- device results -->", "<!-- end of device results -->"
TITLES = {
    "train": "Training the CIFAR-10 network",
    "sample": "Sampling with the CIFAR-10 network",
    "peer": "Beside diffusers, in turns",
    "text_to_image": "Text to image with Stable Diffusion 1.5's networks",
    "theory": "Tests on the device",
    "profile": "The longest kernels of a training step",
    "digits": "configs/digits.py from start to end",
}
COMMAND = "python -m benchmarks --suite device --out DIR"


def write(folders: Sequence[Path], root: Path) -> int:
    """Writes both; 2 where there are no results."""
    runs = {folder: rows_of(folder) for folder in folders}
    for folder, rows in runs.items():
        if not rows:
            print(f"{folder} has no results.jsonl with results: give the folder of a run", file=sys.stderr)
            return 2
    page = root / "benchmarks" / "results" / "gpu.md"
    page.write_text(page_of(runs.values()))
    print(f"wrote {page}")
    readme = root / "README.md"
    readme.write_text(with_table(readme.read_text(), runs.values()))
    print(f"wrote the table in {readme}")
    return 0


def rows_of(folder: Path) -> list[Row]:
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def page_of(runs: Iterable[Sequence[Row]]) -> str:
    """All of it, a chapter a run."""
    return "\n\n".join(["# On accelerators", f"Each by `{COMMAND}`.", *map(chapter, runs)]) + "\n"


def chapter(rows: Sequence[Row]) -> str:
    machine = merged(rows, "machine")
    versions = ", ".join(f"{name} {v}" for name, v in machine.get("versions", {}).items() if v)
    peaks = [f"{row['peak_tflops']} TFLOP/s in {row['dtype']}" for row in rows if "peak_tflops" in row]
    lines = [
        f"## {name_of(machine)}",
        f"{machine.get('count', '?')} device(s); {machine.get('driver') or machine.get('machine')}; Python "
        f"{machine.get('python')}, {versions}. Measured: {', '.join(peaks)}, "
        f"{machine.get('gigabytes_per_second', '?')} GB/s.",
    ]
    for part, title in TITLES.items():
        found = [row for row in rows if row["part"] == part]
        body = [row for row in found if not {"done", "failed", "stopped", "left_out"} & set(row)]
        if part == "profile":
            body = [kernel for row in body for kernel in row["longest"]]
        faults = [row for row in found if {"failed", "stopped", "left_out"} & set(row)]
        if found:
            lines += [f"### {title}", table(body), *(fault(row) for row in faults)]
    return "\n\n".join(line for line in lines if line)


def merged(rows: Sequence[Row], part: str) -> dict[str, Any]:
    """What the rows of a part say together."""
    return {key: value for row in rows if row["part"] == part for key, value in row.items()}


def name_of(machine: Row) -> str:
    return str(machine.get("device", "an unknown device"))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: a column for each key that any of them has."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "part"]
    if not keys:
        return ""
    lines = [f"| {' | '.join(key.replace('_', ' ') for key in keys)} |", f"| {' | '.join('---' for _ in keys)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(cell(row.get(key)) for key in keys)} |" for row in rows)])


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "/")


def fault(row: Row) -> str:
    what = ", ".join(f"{k}={v}" for k, v in row.items() if k not in ("part", "failed", "stopped", "left_out", "log"))
    why = row.get("failed") or row.get("stopped") or row.get("left_out")
    return f"Not there{f' ({what})' if what else ''}: {why}. {' '.join(row.get('log', [])[-2:])}".strip()


def with_table(readme: str, runs: Iterable[Sequence[Row]]) -> str:
    """The README with the table between its two marks, which are put under the results where they are not there."""
    lines = ["On accelerators ([all of it](benchmarks/results/gpu.md)):", ""]
    lines += ["| what | result | command |", "|---|---|---|"]
    for rows in runs:
        device = name_of(merged(rows, "machine"))
        for row in rows:
            if row["part"] == "train" and "images_per_second" in row:
                what = f"training step of the CIFAR-10 network, {row['dtype']}, batch {row['batch']}"
                more = f", {row['steps_per_call']} steps a call" if row["steps_per_call"] > 1 else ""
                speed = f"{row['images_per_second']:,} images/s"
                lines.append(f"| {device}: {what}{more} | {speed} | `{COMMAND} --only train` |")
            if row["part"] == "sample" and "images_per_second" in row:
                what = f"{row['images']} images by {row['steps']} steps of {row['sampler']}, {row['dtype']}"
                lines.append(f"| {device}: {what} | {row['seconds']} s | `{COMMAND} --only sample` |")
            if row["part"] == "peer" and "time_as_a_share_of_diffusers" in row:
                how = "torch.compile" if row["torch_compile"] else "eager"
                what = f"{row['what']}, {row['dtype']}, time as a share of diffusers' ({how})"
                lines.append(f"| {device}: {what} | {row['time_as_a_share_of_diffusers']} | `{COMMAND} --only peer` |")
            if row["part"] == "text_to_image" and "images_per_second" in row:
                ways = {"attention": f"attention {row.get('attention')}", "torch_compile": "torch.compile"}
                how = ", ".join(["", *(way for key, way in ways.items() if row.get(key))])
                what = f"text to image, SD 1.5's networks, {row['images']} by {row['steps']} steps, {row['dtype']}"
                speed = f"{row['images_per_second']:,} images/s"
                lines.append(f"| {device}: {what}: {row['whose']}{how} | {speed} | `{COMMAND} --only text_to_image` |")
    block = "\n".join([BEGIN, *lines, END])
    if BEGIN in readme:
        before, rest = readme.split(BEGIN, 1)
        return before + block + rest.split(END, 1)[1]
    before, results, after = readme.partition("## Results\n")
    chapter, next_one, rest = after.partition("\n## ")
    return f"{before}{results}{chapter.rstrip()}\n\n{block}\n{next_one}{rest}"
