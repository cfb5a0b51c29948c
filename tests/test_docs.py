"""The pages of docs/ and the README: their sessions run, and the paths, names and links in them lead somewhere."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
FOLDERS = ("src", "docs", "configs", "launch", "tests", "examples", "benchmarks", "notebooks")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*\w")
TOP_LEVEL_FILE = re.compile(r"`([\w.-]+\.(?:md|cfg|toml))`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
DOTTED_NAME = re.compile(r"`(marble(?:\.\w+)+)`")
CODE_OR_MATH = re.compile(r"`[^`\n]*`|\$[^$\n]*\$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def sessions(text: str) -> str:
    """The Python sessions of a page; every other line is blank, so that line numbers stay."""
    blank = ["\n"] * (text.count("\n") + 1)
    for fence in FENCE.finditer(text):
        if fence[1] == "python" and ">>>" in fence[2]:
            start = text.count("\n", 0, fence.start(2))
            lines = fence[2].splitlines(keepends=True)
            blank[start : start + len(lines)] = lines
    return "".join(blank)


def run_sessions(name: str, text: str) -> doctest.TestResults:
    """Runs a page's sessions one after the other, in one namespace, and prints what failed."""
    test = doctest.DocTestParser().get_doctest(sessions(text), {"__name__": "__main__"}, name, name, 0)
    return doctest.DocTestRunner(verbose=False).run(test)


def missing_paths(text: str) -> list[str]:
    """The repository paths that a page names and that are not there."""
    named = {*PATH.findall(text), *TOP_LEVEL_FILE.findall(text)}
    return sorted(path for path in named if not list(ROOT.glob(path)) and not list(ROOT.glob(f"docs/{path}")))


def missing_names(text: str) -> list[str]:
    """The dotted names, `marble.part.thing`, that can't be imported."""
    return sorted(name for name in set(DOTTED_NAME.findall(text)) if not is_importable(name))


def missing_tests(text: str) -> list[str]:
    """The tests, `tests/file.py::test_name`, that are not there."""
    named = sorted(set(TEST.findall(text)))
    return [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]


def is_importable(name: str) -> bool:
    thing, *rest = name.split(".")
    found = importlib.import_module(thing)
    for part in rest:
        thing = f"{thing}.{part}"
        try:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(thing)
        except ImportError:
            return False
    return True


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page whose file, or whose heading, is not there."""
    targets = LINK.findall(CODE_OR_MATH.sub("", FENCE.sub("", text)))
    relative = [target for target in targets if not re.match(r"\w+:", target)]
    return [target for target in relative if not leads_somewhere(page, text, target)]


def leads_somewhere(page: Path, text: str, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    if not file.exists():
        return False
    return not anchor or anchor in anchors(file.read_text() if path else text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text()], ids=ids)
def test_the_sessions_of_a_page_run_and_print_what_it_says(page):
    results = run_sessions(ids(page), page.read_text())
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_paths_and_names_in_a_page_exist(page):
    assert missing_paths(page.read_text()) == []
    assert missing_names(page.read_text()) == []
    assert missing_tests(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_relative_links_of_a_page_resolve(page):
    assert broken_links(page, page.read_text()) == []


def test_every_section_of_the_theory_with_an_equation_checks_it():
    sections = re.split(r"^## ", (ROOT / "docs/theory.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) > 5
    for section in sections:
        assert "```math" not in section or ">>>" in section, section.partition("\n")[0]


def test_these_checks_can_fail(capsys):
    assert run_sessions("page", "```python\n>>> 1 + 1\n3\n```\n").failed == 1
    assert "line 2" in capsys.readouterr().out
    assert run_sessions("page", "text\n```python\n>>> x = 1\n```\n\n```python\n>>> x\n1\n```\n") == (0, 2)
    assert missing_paths("`src/marble/typing.py`, `docs/*.md` and `setup.cfg` but `src/nowhere.py`") == [
        "src/nowhere.py"
    ]
    assert missing_paths("--config configs/nowhere.py:smoke, `NOWHERE.md`") == ["NOWHERE.md", "configs/nowhere.py"]
    assert missing_names("`marble.diffusion.q_sample`, `marble.diffusion.q_nothing`") == ["marble.diffusion.q_nothing"]
    assert missing_tests("`tests/test_docs.py::test_nothing`") == ["tests/test_docs.py::test_nothing"]
    links = "# A heading\n[a](theory.md) [b](#a-heading) [c](nowhere.md) [d](theory.md#nowhere) [e](https://x.org/y)"
    assert broken_links(ROOT / "docs/theory.md", links) == ["nowhere.md", "theory.md#nowhere"]
