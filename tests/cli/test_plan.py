"""marble plan: what it prints, and how it fails."""

import importlib.util
import json

import jax
import pytest
import small_networks
import small_pipelines
from processes import marble

from marble import plan, planned
from marble.cli.main import main
from marble.parallel.program import Figures

SMALL = Figures(arguments=4 * 2**20, outputs=0, temporaries=2**30, code=0, flops=8e9, collectives={"all-gather": 2**20})
SMOKE = ["plan", "--config", "digits:smoke"]


@pytest.fixture
def fake(monkeypatch):
    """fake(figures): what the compiler says from now on of any program."""
    monkeypatch.setattr(planned, "device_memory", lambda devices: 2 * 2**30)
    return lambda figures: monkeypatch.setattr(plan, "figures_of", lambda *_: figures)


def test_the_table(fake, capsys):
    fake(SMALL)
    assert main(SMOKE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits:smoke on this machine (8 x cpu): ")
    cells = {line[:34].strip(): line[34:].split("  ") for line in lines[2:]}
    cells = {label: [cell.strip() for cell in row if cell] for label, row in cells.items()}
    assert cells["temporaries"] == ["1.00 GiB", "1.00 GiB"] and cells["arguments, as laid out"] == ["4.0 MiB"] * 2
    assert cells["of 2.00 GiB"] == ["50.2%", "50.2%"] and cells["all-gather"] == ["1.0 MiB", "1.0 MiB"]
    assert cells["a step, an image"] == ["8 G", "8 G"] and cells["a step, all images"] == ["64 G", "64 G"]
    assert cells["steps"] == ["1", "10"] and cells["time of them at peak"] == ["unknown", "unknown"]
    assert lines[-1] == "fits"


@pytest.mark.slow
def test_the_table_of_a_checkpoint(fake, tmp_path, capsys):
    fake(SMALL)
    folder = str(small_pipelines.stable_diffusion(tmp_path / "sd"))
    assert main(["plan", "--workdir", folder, "--dtype", "bfloat16", "--batch_size", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder} on this machine (8 x cpu): ")
    assert " parameters, and " in lines[0] and lines[0].endswith(" frozen ones")
    cells = {line[:34].strip(): line[34:].split("  ") for line in lines[2:]}
    cells = {label: [cell.strip() for cell in row if cell] for label, row in cells.items()}
    assert lines[2].strip() == "sampler" and cells["images a call"] == ["16"] and cells["steps"] == ["50"]
    frozen = [small_networks.autoencoder(), small_networks.clip_text()]
    size = sum(2 * leaf.size for network in frozen for leaf in jax.tree.leaves(network.shapes()))
    assert cells["frozen ones beside them"] == [f"{size / 2**20:.1f} MiB"] and "once, all images" in cells
    assert main(["plan", "--workdir", folder, "--config.sampling.num_steps=7", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["workdir"] == folder and "config" not in printed and printed["sample"]["steps"] == 7


def test_json_is_all_that_is_printed(fake, capsys):
    fake(SMALL)
    assert main([*SMOKE, "--json", "--no_sampler", "--batch_size", "16"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["train"]["images"] == 16 and "sample" not in printed and printed["fits"] is True
    assert (printed["config"], printed["topology"]) == ("digits:smoke", None)
    assert printed["devices"] == {"kind": "cpu", "count": 8, "memory": 2 * 2**30, "flops": None}


@pytest.mark.parametrize("figures", [SMALL._replace(temporaries=2**31), Figures(fault="Used 3G of 2G")])
def test_what_does_not_fit_ends_with_status_1_and_the_table(fake, figures, capsys):
    fake(figures)
    assert main(SMOKE) == 1
    printed = capsys.readouterr().out
    assert "all state, with them" in printed
    assert "does not fit; try --config.model.remat=True, or --config.model.dtype=bfloat16, or " in printed
    assert ("the train step does not compile: Used 3G of 2G" in printed) == (figures.fault is not None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan"], "--config is missing"),
        (["plan", "--config", "digitz"], "no config file 'digitz', and no shipped config of that name"),
        ([*SMOKE, "--topology", "v5e-8"], "--topology v5e-8 is no TPU's name: write GENERATION:SIZE, such as v5e:2x4"),
        ([*SMOKE, "--batch_size", "12"], "training.batch_size=12 does not divide over 8 devices: use 8 or 16"),
        ([*SMOKE, "--config.training.batch_sise=8"], "unknown config key training.batch_sise=8"),
        (
            [*SMOKE, "--workdir", "runs/digits"],
            "--config is given, and --workdir runs/digits, which has a config of its",
        ),
        ([*SMOKE, "--dtype", "bfloat16"], "--dtype is for --workdir; with --config it is --config.model.dtype"),
        (["plan", "--workdir", "x", "--image_shape", "8,8,1"], "--image_shape is given, but the images of x are known"),
        (["plan", "--workdir", "not_there"], "not_there"),
        ([*SMOKE, "--image_shape", "8,8"], "--image_shape 8,8 must be HEIGHT,WIDTH,CHANNELS"),
        ([*SMOKE, "--image_shape", "9,9,1"], "--image_shape 9,9,1, but the images of digits are 8,8,1"),
        ([*SMOKE, "--config.data.name=tfds:x"], "are of no known size: give --image_shape HEIGHT,WIDTH,CHANNELS"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words, said, capsys):
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("marble: ")]
    assert len(lines) == 1 and said in lines[0]


def test_the_help_says_what_the_status_means(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "Exit status 0: it fits. 1: it does not" in capsys.readouterr().out


@pytest.mark.end_to_end
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.slow
def test_a_tpu_that_is_not_there(tmp_path, monkeypatch):
    """On v5e the gradients of a step are summed, and a loop over micro-batches does as much as one batch.

    Of a model so small the update of the parameters, which is counted with each of them, is a seventh of the work.
    """
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))

    def planned(*words):
        process = marble(*SMOKE, "--topology", "v5e:2x2", "--json", *words)
        printed, said = process.communicate(timeout=380)
        assert process.returncode == 0, said
        assert all("compiling" in line for line in said.splitlines()), said
        return json.loads(printed)

    found = planned()
    assert found["devices"] == {"kind": "TPU v5 lite", "count": 4, "memory": 16 * 2**30, "flops": 197e12}
    assert found["train"]["collective_bytes"] == {"all-reduce": pytest.approx(4 * found["parameters"], rel=0.01)}
    assert found["train"]["memory"]["arguments"] >= found["train"]["memory"]["state"]
    assert found["train"]["flops_per_image"] > 2 * found["sample"]["flops_per_image"]
    in_two = planned("--no_sampler", "--config.training.accumulate=2")["train"]
    assert 1 <= in_two["flops_per_image"] / found["train"]["flops_per_image"] < 1.25
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "plan").iterdir()}
    assert planned() == found
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == kept
