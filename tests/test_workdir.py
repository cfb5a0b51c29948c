"""What a workdir accepts from a run that goes on."""

import subprocess
import sys

import pytest

from marble import workdir
from marble.data.sources import CONTENT
from marble.errors import InputError
from marble.pipelines import ImageSpec

CONFIG = {"seed": 0, "data": {"name": "image_folder", "source": "/a"}}
DATA = workdir.DataFacts(ImageSpec((8, 8, 3), 256), {"train": 5}, "abc")


@pytest.fixture
def begun(tmp_path):
    workdir.remember(str(tmp_path), CONFIG, DATA)
    return str(tmp_path)


def test_what_is_remembered_is_recalled(begun):
    assert workdir.recall(begun) == (CONFIG, DATA)
    assert workdir.check(begun, CONFIG, DATA) == []


@pytest.mark.parametrize(
    "data", [DATA._replace(splits={"train": 6}), DATA._replace(image=ImageSpec((8, 8, 3), 17))], ids=["splits", "image"]
)
def test_other_data_are_refused(begun, data):
    with pytest.raises(InputError, match="another config.*data: "):
        workdir.check(begun, CONFIG, data)


def test_as_many_other_images_are_refused(begun):
    facts = [DATA._replace(originals=f"{CONTENT}{name}") for name in ("abc", "xyz")]
    workdir.remember(begun, CONFIG, facts[0])
    assert workdir.check(begun, CONFIG, facts[0]) == []
    with pytest.raises(InputError, match="the files of the data: .*abc -> .*xyz"):
        workdir.check(begun, CONFIG, facts[1])


def test_classes_in_another_order_are_refused(begun):
    named = DATA._replace(class_names=("cat", "dog"))
    assert workdir.check(begun, CONFIG, named) == []  # the run is of a version that did not keep them
    workdir.remember(begun, CONFIG, named)
    assert workdir.recall(begun) == (CONFIG, named) and workdir.check(begun, CONFIG, named) == []
    with pytest.raises(InputError, match="the classes: .'cat', 'dog'. -> .'dog', 'cat'."):
        workdir.check(begun, CONFIG, named._replace(class_names=("dog", "cat")))


def test_as_many_other_files_are_shown(begun):
    assert workdir.check(begun, CONFIG, DATA._replace(originals="xyz")) == ["the files of the data: abc -> xyz"]


@pytest.mark.parametrize("content", ["", "{}", '{"config": {}, "data": {"image": 3}}', "[]"])
def test_a_damaged_file_is_named(begun, content):
    workdir.config_path(begun).write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        workdir.recall(begun)


def test_two_processes_can_not_train_in_one_workdir(tmp_path):
    program = "from marble import workdir\nwith workdir.locked('run'): print('in', flush=True); input()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, **pipes)
    assert other.stdout.readline() == "in\n"
    with pytest.raises(InputError, match=f"the process {other.pid} trains in"), workdir.locked(str(tmp_path / "run")):
        pass
    other.kill()
    other.wait()
    with workdir.locked(str(tmp_path / "run")):  # the lock went with its process
        pass


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not the workdir of a run"):
        workdir.recall(str(tmp_path / "file"))
