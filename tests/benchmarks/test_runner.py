"""python -m benchmarks: what it refuses, what it writes, and what it does without peers."""

import importlib
import json

import pytest

from benchmarks import __main__ as runner
from benchmarks import measure, peers, report
from benchmarks.suites import SUITES, startup, train

ABOUT = {"device": "a chip", "count": 1, "platform": "cpu", "load": 0.5, "machine": "M", "python": "3", "versions": {}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "trian"], "unknown suite 'trian': did you mean 'train'?"),
        (["--suite", "sampel"], "unknown suite 'sampel': did you mean 'sample'?"),
        (["--suite", "train", "--peer", "difusers"], "unknown peer 'difusers': did you mean 'diffusers'?"),
        (["--suite", "sample", "--peer", "lucidrain"], "unknown peer 'lucidrain': did you mean 'lucidrains'?"),
        (["--suite", "device"], "--out is missing: give a folder for the results"),
        (["--suite", "data", "--out", "nowhere/x.json"], "--out nowhere/x.json is in a folder that is not there"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.machine.about_in_a_child", lambda: ABOUT)
    assert runner.main(words) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and said in told[0]


def test_without_a_suite_all_are_listed(capsys):
    assert runner.main([]) == 2 and runner.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"    {name} ") == 2 for name in SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_its_flags_and_its_help(name, capsys):
    suite = importlib.import_module(f"benchmarks.suites.{name}")
    assert {"REPORTS", "IN_CHILDREN", "PEERS", "define", "run"} <= set(vars(suite))
    with pytest.raises(SystemExit, match="0"):
        runner.main(["--suite", name, "--help"])
    printed = capsys.readouterr().out
    assert f"python -m benchmarks --suite {name}" in printed
    assert not suite.REPORTS or "--out FILE" in printed
    assert ("--peer" in printed) == bool(suite.PEERS)


@pytest.mark.parametrize(
    ("asked", "found"), [([], ["diffusers", "lucidrains"]), (["lucidrains"], ["lucidrains"]), (["none"], [])]
)
def test_peers_are_those_that_are_asked_for(asked, found):
    words = ["--suite", "train", *(["--peer", *asked] if asked else [])]
    assert runner.parsed("train", train, words).peer == found


def test_a_peer_that_is_not_installed_is_left_out_with_the_extra_that_brings_it(monkeypatch):
    def without(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    said = []
    monkeypatch.setattr(peers.importlib, "import_module", without)
    assert peers.opened(["diffusers"], said.append) == {}
    assert said == ["diffusers is left out: torch is not installed (pip install 'marble-diffusion[peers]' brings it)"]


def test_a_fault_of_our_own_is_not_a_peer_that_is_missing(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'benchmarks.nothing'", name="benchmarks.nothing")

    monkeypatch.setattr(peers.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        peers.opened(["diffusers"], print)


def test_the_report_is_a_file_from_the_first_row_on(tmp_path, capsys):
    out = tmp_path / "found.json"
    told = report.Report("train", ["--suite", "train", "--out", "a b"], ABOUT, out)
    assert json.loads(out.read_text())["tables"] == {}
    told.row("One", name="x|y", seconds=0.123456, count=12345, ok=True, nothing=None)
    told.row("One", name="z", seconds=12345.6, count=1, ok=False, nothing=None)
    told.note("a note")
    found = json.loads(out.read_text())
    assert found["command"] == "python -m benchmarks --suite train --out 'a b'"
    assert found["machine"]["device"] == "a chip" and found["notes"] == ["a note"] and found["date"].startswith("20")
    assert found["tables"]["One"][0]["seconds"] == 0.123456 and found["tables"]["One"][0]["nothing"] is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:] == [
        "|" + " --- |" * 5,
        "| x/y | 0.1235 | 12,345 | yes |  |",
        "| z | 12,346 | 1 | no |  |",
        "",
        "a note",
    ]


def test_a_comparison_tells_each_contender_beside_ours(monkeypatch):
    """Seconds of 1 and 4 for 8 images and 100 operations of a machine that does 1000 a second."""
    seconds = {"marble": 1, "diffusers eager": 4, "lucidrains eager": 2}
    now = [0.0]

    def contender(name, **more):
        def call():
            now[0] += seconds[name]

        return measure.Contender(name, call, 10, **more)

    real = measure.in_turns
    monkeypatch.setattr(measure, "in_turns", lambda calls, **words: real(calls, clock=lambda: now[0], **words))
    told = report.Report("train", [], ABOUT, None)
    contenders = [contender("marble"), contender("diffusers eager"), contender("lucidrains eager", is_same=False)]
    turns = measure.compare(told, {"what": "a"}, contenders, images=8, rounds=2, flops=100.0, peak=1000.0)
    ours, theirs, other = told.found["tables"]["In turns"]
    assert (ours["ms"], ours["images_per_second"], ours["gflops"]) == (1000, 8, 100 / 1e9)
    assert ours["share_of_matrix_peak"] == pytest.approx(0.1) and ours["our_time_to_its"] is None
    assert (theirs["images_per_second"], theirs["our_time_to_its"], theirs["gflops"]) == (2, 0.25, 25 / 1e9)
    assert other["our_time_to_its"] == 0.5 and other["gflops"] is None and other["share_of_matrix_peak"] is None
    measure.tell_best(told, {"what": "a"}, turns, measure.Bar("diffusers", 0.2))
    (bar,) = told.found["tables"]["Bars"]
    assert (bar["best"], bar["our_time_to_its"], bar["met"]) == ("diffusers eager", 0.25, False)
    measure.tell_best(told, {"what": "b"}, turns, measure.Bar("diffusers", 0.25))
    assert told.found["tables"]["Bars"][1]["met"]
    measure.tell_best(told, {"what": "c"}, turns, measure.Bar("nobody", 0.25))
    assert len(told.found["tables"]["Bars"]) == 2


def test_the_packages_of_an_installation_are_those_that_it_requires(monkeypatch):
    required = {
        "root": ["A-b>=1", "never; extra == 'more'", "c[x]", "other; python_version < '3'"],
        "a-b": ["root"],
        "c": ["d; extra == 'x'", "e; extra == 'y'"],
        **{name: [] for name in ("d", "e", "never", "other")},
    }

    def requires(name):
        if name not in required:
            raise startup.importlib.metadata.PackageNotFoundError(name)
        return required[name]

    monkeypatch.setattr(startup.importlib.metadata, "requires", requires)
    assert startup.closure(["Root"]) == {"root", "a-b", "c", "d"}
