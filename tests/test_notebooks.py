"""The notebooks run from their first cell to their last, with small numbers, and hold no outputs."""

import ast
import json
import os
import re

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from processes import ROOT

pytestmark = pytest.mark.timeout(1200)  # most of it is compiling, on cores that other tests share

FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PARAMETERS = "parameters"
"""The tag of the cell that has them."""
MACHINE = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|mnt|Users|content|var|opt)/")
"""A path of somebody's machine."""
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[\w-]+)?\)")

TINY = ["--config.model.channels=8", "--config.model.num_groups=4", "--config.model.channel_mult=(1,)"]
TEN_STEPS = ["--config.diffusion.num_train_timesteps=10", "--config.sampling.batch_size=8"]
PLAIN = ["--config.model.num_res_blocks=1", "--config.model.attention_resolutions=()"]
SMALL = {
    "digits": {
        "WORKDIR": "run",
        "STEPS": 20,
        "OPTIONS": [*TINY, *TEN_STEPS, "--config.diffusion.beta_end=0.95", "--config.training.log_every=5"],
        "NUM": 8,
        "NUM_HELD_OUT": 8,
    },
    "own_folder": {
        "FOLDER": None,
        "NUM_FLOWERS": 24,
        "WORKDIR": "run",
        "IMAGE_SIZE": 16,
        "STEPS": 100,
        "OPTIONS": [*TINY, *TEN_STEPS, *PLAIN, "--config.training.batch_size=8"],
        "NUM": 8,
        "SAMPLING_STEPS": 4,
    },
    "text_to_image": {
        "WORKDIR": "run",
        "DATA": "shapes",
        "VARIANT": "smoke",
        "IMAGE_SIZE": 16,
        "STEPS": {"autoencoder": 4, "clip": 4, "latent": 4},
        "OPTIONS": {},
        "PROMPTS": {"shapes": ["a large red circle", "a small blue square"]},
        "NUM": 2,
        "NUM_SHAPES": 40,
    },
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def tagged(notebook):
    """The one cell of the parameters."""
    (cell,) = [cell for cell in notebook.cells if PARAMETERS in cell.metadata.get("tags", [])]
    return cell


def changed(source, values):
    """The cell with other values; each name has to be in both."""
    tree = ast.parse(source)
    assigned = {node.targets[0].id: node for node in tree.body if isinstance(node, ast.Assign)}
    assert set(assigned) == set(values)
    for name, node in assigned.items():
        node.value = ast.parse(repr(values[name]), mode="eval").body
    return ast.unparse(tree)


def executed(notebook, folder):
    """Runs all cells, in that folder, on one device; an error in one is raised."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "IPYTHONDIR": str(folder / "ipython")}
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return notebook


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A notebook's name to what it is after a run with small numbers, and the workdir that it leaves."""

    def run(name):
        folder, notebook = tmp_path_factory.mktemp(name), read(name)
        cell = tagged(notebook)
        cell.source = changed(cell.source, SMALL[name])
        executed(notebook, folder)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        return notebook, folder / "run"

    return run


def said(notebook):
    """All that is printed."""
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(notebook, kind):
    """How many outputs of that kind, such as image/png."""
    return sum(kind in output.get("data", {}) for output in outputs(notebook))


def losses(workdir):
    """The loss by the step, as logged."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def colours(path):
    """How many different values a picture has."""
    return len(np.unique(np.asarray(Image.open(path))))


@pytest.mark.end_to_end
def test_digits(small_run):
    notebook, workdir = small_run("digits")
    assert list(losses(workdir)) == [5, 10, 15, 20]
    measured = json.loads((workdir / "metrics.json").read_text())
    assert "test[8]" in json.dumps(measured) and "sum: the variational bound" in said(notebook)
    assert colours(workdir / "out" / "samples.png") > 2
    assert shown(notebook, "image/png") == 7 and shown(notebook, "text/html") >= 1


@pytest.mark.end_to_end
@pytest.mark.slow
def test_a_folder_of_ones_own(small_run):
    """The run that is stopped goes on, and known pixels stay as they are."""
    notebook, workdir = small_run("own_folder")
    assert "status 75" in said(notebook)
    assert list(losses(workdir / "model")) == list(range(1, 101))
    assert len(list((workdir / "flowers").glob("*.png"))) == 24
    assert shown(notebook, "image/png") == 6 and shown(notebook, "text/html") == 1
    filled = np.asarray(Image.open(workdir / "out" / "filled.png"))[::4, ::4]  # five rows of images of 16, enlarged
    given, _, *drawn = (filled[17 * i : 17 * i + 16] for i in range(5))
    is_known = np.arange(filled.shape[1]) % 17 < 8
    assert all(np.array_equal(row[:, is_known], given[:, is_known]) for row in drawn)
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.end_to_end
@pytest.mark.slow
def test_text_to_image(small_run):
    notebook, workdir = small_run("text_to_image")
    for part in ("autoencoder", "clip", "latent"):
        assert max(losses(workdir / part)) == 4
    assert (workdir / "diffusers" / "model_index.json").is_file()
    assert re.search(r"largest difference of a pixel: [01]\b", said(notebook))
    assert colours(workdir / "out" / "prompts.png") > 2
    assert shown(notebook, "image/png") == 6 and shown(notebook, "text/html") == 3


def faults(notebook):
    """What is wrong with a notebook as it is committed."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            found.append(f"cell {number} has outputs: clear them")
        if MACHINE.search(cell.source):
            found.append(f"cell {number} has a path of a machine")
        if cell.cell_type == "markdown":
            links = LINK.findall(cell.source)
            found += [f"cell {number}: no {link}" for link in links if not (FOLDER / link).exists()]
    if set(notebook.metadata) != {"kernelspec", "language_info"} or notebook.metadata.kernelspec.name != "python3":
        found.append("metadata of an editor: leave kernelspec and language_info")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_as_committed(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert faults(notebook) == []
    first, second, *_ = notebook.cells
    assert first.cell_type == "markdown" and 'pip install -e ".[notebooks]"' in first.source
    assert second is tagged(notebook)
    assert f"(notebooks/{name}.ipynb)" in (ROOT / "README.md").read_text()


def test_each_is_run():
    assert sorted(SMALL) == NAMES


def test_these_checks_can_fail(tmp_path):
    cell = nbformat.v4.new_code_cell("open('/home/me/x')", outputs=[nbformat.v4.new_output("stream", text="x")])
    link = nbformat.v4.new_markdown_cell("[a](../docs/theory.md#x) [b](nowhere.ipynb) [c](https://x.org/y)")
    notebook = nbformat.v4.new_notebook(cells=[cell, link])
    assert [fault.partition(":")[0] for fault in faults(notebook)] == [
        *("cell 0 has outputs", "cell 0 has a path of a machine", "cell 1", "metadata of an editor")
    ]
    assert changed("import os\nA = 1  # one\nB = 'b'", {"A": [2], "B": None}) == "import os\nA = [2]\nB = None"
    with pytest.raises(AssertionError):
        changed("A = 1", {"A": 2, "B": 3})
    failing = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(CellExecutionError):
        executed(failing, tmp_path)
