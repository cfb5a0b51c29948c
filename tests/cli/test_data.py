import pytest

from marble.cli.data import main
from marble.errors import InputError


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    (tmp_path / "folder").mkdir()
    for i in range(3):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "folder" / f"{i}.png")
    return tmp_path / "folder"


def test_preparing_says_what_and_where_and_a_second_time_that_nothing_was_done(tmp_path, folder, capsys):
    argv = ["prepare", "image_folder", "--source", str(folder), "--data_dir", str(tmp_path / "data")]
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"image_folder: prepared: 3 train in {tmp_path / 'data'}") and first.count("\n") == 1
    assert main(argv) == 0
    assert capsys.readouterr().out == first.replace("prepared:", "already prepared, nothing to do:")


def test_the_digits_have_nothing_to_prepare(capsys):
    assert main(["prepare", "digits"]) == 0
    assert capsys.readouterr().out == "digits is built in, there is nothing to prepare: 1,437 train, 360 test\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "marble data: the following arguments are required: command; see marble data --help"),
        (["prepare"], "marble data prepare: .*required: NAME; see marble data prepare --help"),
        (["remove", "mnist"], "marble data: .*'remove'.*prepare"),
        (["prepare", "mnist", "--sorce", "x"], "marble data: .*--sorce x"),
        (["prepare", "mnist", "--source"], "marble data prepare: .*--source"),
    ],
)
def test_usage_errors_are_one_line_left_to_the_caller(argv, message, capsys):
    with pytest.raises(InputError, match=message):
        main(argv)
    assert capsys.readouterr() == ("", "")


def test_wrong_input_is_left_to_the_caller(tmp_path):
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        main(["prepare", "cifar", "--data_dir", str(tmp_path)])
