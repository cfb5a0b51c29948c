"""What a suite has found: tables that are printed row by row, and one JSON file of all."""

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marble import strict_json
from marble.errors import InputError


class Report:
    """Of one run. Each row is printed, and is in the file, as soon as it is known."""

    def __init__(self, suite: str, words: Sequence[str], about: dict[str, Any], out: Path | None) -> None:
        self.out, self._shown = out, None
        self.found: dict[str, Any] = {
            "suite": suite,
            "command": shlex.join(["python", "-m", "benchmarks", *words]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": about,
            "notes": [],
            "tables": {},
        }
        if out is not None and not out.absolute().parent.is_dir():
            raise InputError(f"--out {out} is in a folder that is not there: make {out.parent} first")
        versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
        print(f"{self.found['command']}\n{self.found['date']}; {about['count']} x {about['device']}", end="")
        print(f", load {about['load']:.1f}; {about['machine']}; Python {about['python']}, {versions}", flush=True)
        self._save()

    @property
    def is_on_a_cpu(self) -> bool:
        """Whether jax has no accelerator here."""
        return self.found["machine"]["platform"] == "cpu"

    def note(self, text: str) -> None:
        """A line beside the tables."""
        self.found["notes"].append(text)
        self._shown = None
        print(f"\n{text}", flush=True)
        self._save()

    def row(self, table: str, **values: Any) -> None:
        """A line of a table, under its title and head where another was printed before; None is an empty cell."""
        self.found["tables"].setdefault(table, []).append(values)
        if self._shown != (table, tuple(values)):
            self._shown = table, tuple(values)
            print(f"\n{table}\n\n| {' | '.join(key.replace('_', ' ') for key in values)} |")
            print(f"|{' --- |' * len(values)}")
        print(f"| {' | '.join(map(cell, values.values()))} |", flush=True)
        self._save()

    def _save(self) -> None:
        if self.out is not None:
            self.out.write_text(strict_json.dumps(self.found, indent=2) + "\n")


def cell(value: Any) -> str:
    """A value as a table shows it: numbers of four digits, and whole ones in groups."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "/")
