"""What a workdir accepts from a run that goes on."""

import pytest

from marble import workdir
from marble.errors import InputError
from marble.pipelines import ImageSpec

CONFIG = {"seed": 0, "data": {"name": "image_folder", "source": "/a"}}
DATA = workdir.DataFacts(ImageSpec((8, 8, 3), 256), {"train": 5}, "abc")


@pytest.fixture
def begun(tmp_path):
    workdir.remember(str(tmp_path), CONFIG, DATA)
    return str(tmp_path)


def test_what_is_remembered_is_recalled(begun):
    assert workdir.recall(begun) == (CONFIG, DATA.image)
    assert workdir.check(begun, CONFIG, DATA) == []


@pytest.mark.parametrize(
    "data", [DATA._replace(splits={"train": 6}), DATA._replace(image=ImageSpec((8, 8, 3), 17))], ids=["splits", "image"]
)
def test_other_data_are_refused(begun, data):
    with pytest.raises(InputError, match="another config.*data: "):
        workdir.check(begun, CONFIG, data)


def test_as_many_other_files_are_shown(begun):
    assert workdir.check(begun, CONFIG, DATA._replace(originals="xyz")) == ["the files of the data: abc -> xyz"]


@pytest.mark.parametrize("content", ["", "{}", '{"config": {}, "data": {"image": 3}}', "[]"])
def test_a_damaged_file_is_named(begun, content):
    workdir.config_path(begun).write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        workdir.recall(begun)
