import json
import os

import numpy as np
import pytest

from marble.data.folder import digest, in_order, list_folder
from marble.errors import InputError

IMAGES = np.random.default_rng(3).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)


def rows(*columns):
    return [{"file_name": f"{i}.png", **column} for i, column in enumerate(columns)]


def listed(folder, split="train"):
    return [(e.name, e.label, e.text) for e in list_folder(folder).splits[split]]


def test_captions_and_class_names(tmp_path, write_folder):
    given = [{"text": text, "label": label} for text, label in (("a", "dog"), ("b", "cat"), ("c", "dog"))]
    write_folder(tmp_path, IMAGES, rows(*given))
    assert list_folder(tmp_path).class_names == ("cat", "dog")
    assert listed(tmp_path) == [("0.png", 1, "a"), ("1.png", 0, "b"), ("2.png", 1, "c")]


def test_class_numbers(tmp_path, write_folder):
    write_folder(tmp_path, IMAGES, rows({"label": 3}, {"label": 0}, {"label": 1}))
    assert list_folder(tmp_path).class_names == ("0", "1", "2", "3")
    assert [label for _, label, _ in listed(tmp_path)] == [3, 0, 1]


def test_metadata_decide_which_images_and_in_which_order(tmp_path, write_folder):
    write_folder(tmp_path, IMAGES, [{"file_name": "2.png", "seen": True}, {"file_name": "0.png"}])
    assert [name for name, _, _ in listed(tmp_path)] == ["2.png", "0.png"]


def test_a_plain_folder_is_taken_in_the_order_of_names(tmp_path, write_folder):
    write_folder(tmp_path / "b", IMAGES[:1])
    write_folder(tmp_path / "a", IMAGES[:2])
    write_folder(tmp_path / ".hidden", IMAGES[:1])
    (tmp_path / "notes.txt").write_text("not an image")
    assert [name for name, _, _ in listed(tmp_path)] == ["a/0.png", "a/1.png", "b/0.png"]


def test_split_folders_share_their_class_names(tmp_path, write_folder):
    write_folder(tmp_path / "train", IMAGES[:2], rows({"label": "b"}, {"label": "c"}))
    write_folder(tmp_path / "test", IMAGES[:1], rows({"label": "a"}))
    assert list_folder(tmp_path).class_names == ("a", "b", "c")
    assert listed(tmp_path) == [("train/0.png", 1, None), ("train/1.png", 2, None)]
    assert listed(tmp_path, "test") == [("test/0.png", 0, None)]


@pytest.mark.parametrize("splits", [["test"], ["validation"], ["validation", "test"]])
@pytest.mark.parametrize("beside", [False, True])
def test_held_out_images_are_not_trained_on(tmp_path, write_folder, splits, beside):
    for split in splits:
        write_folder(tmp_path / split, IMAGES)
    if beside:
        write_folder(tmp_path, IMAGES)
    with pytest.raises(InputError, match=f"has {'/ and '.join(splits)}/ but no train/: put"):
        list_folder(tmp_path)


def test_what_is_not_used_is_known_by_its_reason(tmp_path, write_folder):
    write_folder(tmp_path / "train", IMAGES)
    write_folder(tmp_path / "test", IMAGES)
    write_folder(tmp_path / ".hidden", IMAGES)
    (tmp_path / "notes.txt").write_text("beside the splits, and no image")
    assert list_folder(tmp_path).unused == {}
    write_folder(tmp_path, IMAGES[:1])
    write_folder(tmp_path / "more" / "a", IMAGES[:2])
    for name in ("test/a.heic", "b.heic"):
        (tmp_path / name).write_text("of a phone")
    (tmp_path / "train" / "gone.png").symlink_to("nowhere.png")
    assert list_folder(tmp_path).unused == {
        "of other kinds": ("test/a.heic",),
        "beside train/": ("0.png", "b.heic", "more/a/0.png", "more/a/1.png"),
        "that are links to nothing": ("train/gone.png",),
    }
    write_folder(tmp_path / "train", IMAGES, rows({}))
    assert list_folder(tmp_path).unused["that no line of metadata names"] == ("train/1.png", "train/2.png")


@pytest.mark.parametrize(
    ("folders", "shallow", "deep"),
    [
        (["cat", "dog", "."], "0.png", "cat/0.png"),
        (["cat", "dog/sub"], "cat/0.png", "dog/sub/0.png"),
        (["train/cat", "train/dog", "val"], "val/0.png", "train/cat/0.png"),
    ],
)
def test_folders_that_are_no_classes_are_told_of(tmp_path, write_folder, folders, shallow, deep):
    for folder in folders:
        write_folder(tmp_path / folder, IMAGES[:1])
    found = list_folder(tmp_path)
    assert found.class_names is None
    assert found.no_classes == f"the folders are no classes, for {shallow} and {deep} are not equally deep"


def test_nothing_is_unused_in_a_plain_folder(tmp_path, write_folder):
    found = list_folder(write_folder(tmp_path, IMAGES))
    assert found.unused == {} and found.no_classes is None


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["Train", "Validation"], ["train", "validation"]),
        (["training", "val"], ["train", "validation"]),
        (["train", "val"], ["train", "validation"]),
        (["TRAIN", "dev", "Eval"], ["train", "validation", "test"]),
        (["training", "valid", "testing"], ["train", "validation", "test"]),
    ],
)
def test_splits_have_hugging_face_s_names_in_any_case(tmp_path, write_folder, folders, splits):
    for folder in folders:
        write_folder(tmp_path / folder, IMAGES[:1])
    found = list_folder(tmp_path)
    assert list(found.splits) == splits and found.unused == {}
    assert [entry.name for entry in found.entries] == [f"{folder}/0.png" for folder in folders]


def test_two_folders_of_one_split_are_named(tmp_path, write_folder):
    for folder in ("train", "val", "dev"):
        write_folder(tmp_path / folder, IMAGES)
    with pytest.raises(InputError, match="has dev/ and val/, which are both validation: put their images in one"):
        list_folder(tmp_path)


def test_folders_are_classes(tmp_path, write_folder):
    for folder, count in (("dog", 2), ("cat", 1)):
        write_folder(tmp_path / folder, IMAGES[:count])
    assert list_folder(tmp_path).class_names == ("cat", "dog")
    assert listed(tmp_path) == [("cat/0.png", 0, None), ("dog/0.png", 1, None), ("dog/1.png", 1, None)]
    assert list_folder(tmp_path).count_by_class() == [1, 2]


def test_classes_named_like_splits_go_below_train(tmp_path, write_folder):
    for folder in ("test", "cat"):
        write_folder(tmp_path / folder, IMAGES[:1])
    with pytest.raises(InputError, match="has test/ but no train/: .* classes of such names go below train/"):
        list_folder(tmp_path)
    for folder in ("train/test", "train/cat", "val/cat"):
        write_folder(tmp_path / folder, IMAGES[:1])
    os.rename(tmp_path / "test", tmp_path / "other")
    found = list_folder(tmp_path)
    assert found.class_names == ("cat", "test")
    labels = {entry.name: entry.label for entry in found.entries}
    assert labels == {"train/cat/0.png": 0, "train/test/0.png": 1, "val/cat/0.png": 0}


@pytest.mark.parametrize(
    "folders", [["a", "."], ["a", "b/c"], ["a"], ["a/x", "b/x"]], ids=["loose ones", "uneven", "one", "one name"]
)
def test_other_folders_are_no_classes(tmp_path, write_folder, folders):
    for folder in folders:
        write_folder(tmp_path / folder, IMAGES[:1])
    assert list_folder(tmp_path).class_names is None


def test_a_folder_name_that_can_be_no_class_is_named(tmp_path, write_folder):
    for folder in ("a", "b "):
        write_folder(tmp_path / folder, IMAGES[:1])
    with pytest.raises(InputError, match="the folder name 'b ' can't be that of a class: rename"):
        list_folder(tmp_path)


def test_numbers_sort_as_numbers_and_names_as_text(tmp_path, write_folder):
    assert in_order(str(number) for number in range(12)) == tuple(str(number) for number in range(12))
    assert in_order(["10", "2", "a"]) == ("10", "2", "a")
    assert in_order(["2", "02", "1"]) == ("1", "02", "2")
    for number in (2, 10, 1):
        write_folder(tmp_path / str(number), IMAGES[:1])
    assert list_folder(tmp_path).class_names == ("1", "2", "10")


def test_metadata_may_be_csv_and_lie_below(tmp_path, write_folder):
    write_folder(tmp_path / "a", IMAGES[:2])
    write_folder(tmp_path / "b" / "c", IMAGES[:2])
    (tmp_path / "a" / "metadata.csv").write_text('file_name,text,seen\n1.png,"one, and\nmore",x\n0.png,,\n')
    (tmp_path / "b" / "metadata.jsonl").write_text(json.dumps({"file_name": "c/0.png", "text": "three"}))
    first, *others = listed(tmp_path)
    assert first == ("a/1.png", None, "one, and\nmore")
    assert others == [("a/0.png", None, ""), ("b/c/0.png", None, "three")]  # an empty text is one
    assert list_folder(tmp_path).unused == {"that no line of metadata names": ("b/c/1.png",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\n0.png,a\n", "metadata.csv line 1 has no column file_name"),
        ("", "metadata.csv line 1 has no column file_name"),
        ("file_name,text\n,a\n", "metadata.csv line 2 has no file_name"),
        ("file_name,text\n9.png,a\n", "metadata.csv line 2: there is no file '9.png'"),
        ('file_name,text\n0.png,"a', "metadata.csv line 1 is not CSV"),
        ("file_name,label\n0.png,a\n1.png,\n", "1 of 2 images have no label"),
        ("file_name,label\n0.png,a\n0.png,b\n", "0.png is named by lines of several labels: take out all but one"),
    ],
)
def test_wrong_csv_is_named(tmp_path, write_folder, text, message):
    write_folder(tmp_path, IMAGES)
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list_folder(tmp_path)


def test_an_image_has_several_texts_and_each_once(tmp_path, write_folder, caplog):
    write_folder(tmp_path, IMAGES)
    lines = ["file_name,text", "0.png,a cat", "1.png,a dog", "0.png,a pet", "0.png,a cat", "1.png,a dog"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    found = [(entry.name, entry.text) for entry in list_folder(tmp_path).splits["train"]]
    assert found == [("0.png", "a cat"), ("1.png", "a dog"), ("0.png", "a pet")]
    assert "2 lines of metadata say what others say, as of 0.png: they are left out" in caplog.text


def test_two_kinds_of_metadata_are_named(tmp_path, write_folder):
    write_folder(tmp_path / "a", IMAGES, rows({}))
    (tmp_path / "a" / "metadata.csv").write_text("file_name\n0.png\n")
    with pytest.raises(InputError, match="a has both metadata.jsonl and metadata.csv: keep one"):
        list_folder(tmp_path)


def test_links_are_followed_and_a_loop_ends(tmp_path, write_folder):
    write_folder(tmp_path / "elsewhere", IMAGES[:2])
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "one.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "sub" / "up").symlink_to(images)
    (images / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert [name for name, _, _ in listed(images)] == ["linked/0.png", "linked/1.png", "one.png"]


@pytest.mark.parametrize(
    "given, message",
    [
        (rows({"label": "a"}, {"label": 1}), "some labels are class names and some are numbers"),
        (rows({"label": "a"}, {}), r"1 of 2 images have no label, the first is 1\.png"),
        (rows({"text": "a"}, {}), r"1 of 2 images have no text, the first is 1\.png"),
        (rows({"label": -1}), "line 1: label -1 is neither"),
        (rows({"label": True}), "line 1: label True is neither"),
        (rows({"label": 0.5}), "line 1: label 0.5 is neither"),
        (rows({"label": ""}), "line 1: label '' is neither"),
        (rows({"label": 2**16}), "line 1: label 65536 is neither"),
        (rows({"label": "\ud800"}), r"line 1: label '\\ud800' is neither"),
        (rows({"label": "a\nb"}), r"line 1: label 'a\\nb' is neither a class name, of one line"),
        (rows({"label": "a\x00b"}), r"line 1: label 'a\\x00b' is neither"),
        (rows({"label": "a\x85b"}), r"line 1: label 'a\\x85b' is neither"),
        (rows({"text": 5}), "line 1: text 5 is not a string"),
        (rows({"text": "\ud800"}), "line 1: text .* is not a string of Unicode"),
        ([{"file_name": "0.png"}, {"file_name": "absent.png"}], r"line 2: there is no file .*absent\.png"),
        ([{"name": "0.png"}], "line 1 has no file_name"),
        (["0.png"], "line 1 has no file_name"),
        ([], r"metadata\.jsonl names no image"),
    ],
)
def test_wrong_metadata_are_named(tmp_path, write_folder, given, message):
    with pytest.raises(InputError, match=message):
        list_folder(write_folder(tmp_path, IMAGES, given))


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"file_name": "0.png", "label": %s}' % ("9" * 4000), "line 1: label 9+[.]{3}9+ is neither"),
        ('{"file_name": "0.png", "label": %s}' % ("9" * 5000), "line 1 has a number too long"),
        (json.dumps({"file_name": "0.png", "label": "x" * 5000 + " "}), "line 1: label 'x+[.]{3}x+ ' is neither"),
        (json.dumps({"file_name": "0.png", "text": ["x"] * 5000}), r"line 1: text \['x'.* is not a string"),
        ("[" * 100_000, "line 1 has .* brackets too deep"),
        (json.dumps({"file_name": "x" * 5000}), "line 1: there is no file 'x+[.]{3}x+' in "),
    ],
    ids=["4000 digits", "5000 digits", "long label", "long text", "brackets", "long name"],
)
def test_what_is_too_long_is_an_input_error_that_is_not(tmp_path, write_folder, line, message):
    write_folder(tmp_path, IMAGES)
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(InputError, match=message) as raised:
        list_folder(tmp_path)
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_metadata_that_are_a_folder_are_named(tmp_path, write_folder):
    (write_folder(tmp_path, IMAGES) / "metadata.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metadata\.jsonl can't be read \(Is a directory\)"):
        list_folder(tmp_path)


def test_a_file_name_that_is_no_text_is_named(tmp_path, write_folder):
    write_folder(tmp_path, IMAGES)
    os.rename(tmp_path / "0.png", os.fsencode(tmp_path) + b"/\x80.png")
    with pytest.raises(InputError, match=r"the name '\\udc80\.png' is not Unicode: rename"):
        list_folder(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path, write_folder):
    write_folder(tmp_path, IMAGES)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png"}), encoding="utf-8-sig")
    assert listed(tmp_path) == [("0.png", None, None)]


def test_a_line_that_is_not_json_is_named(tmp_path, write_folder):
    write_folder(tmp_path, IMAGES)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png"}) + "\n\nfile_name: 1.png\n")
    with pytest.raises(InputError, match=r"metadata\.jsonl line 3 is not JSON"):
        list_folder(tmp_path)


def test_metadata_that_are_not_text_are_named(tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"metadata\.jsonl is not UTF-8"):
        list_folder(tmp_path)


def test_folders_without_images_are_named(tmp_path, write_folder):
    with pytest.raises(InputError, match="names no image"):
        list_folder(tmp_path)
    with pytest.raises(InputError, match=r"nowhere is not a folder"):
        list_folder(tmp_path / "nowhere")
    write_folder(tmp_path / "train", IMAGES)
    (tmp_path / "metadata.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"both metadata\.jsonl and train/"):
        list_folder(tmp_path)


def test_the_digest_changes_with_anything_that_is_read(tmp_path, write_folder):
    def state(given):
        write_folder(tmp_path, IMAGES, given)
        for i in range(len(IMAGES)):
            os.utime(tmp_path / f"{i}.png", (1, 1))
        return digest(list_folder(tmp_path))

    first = state(rows({"label": "a"}, {"label": "b"}))
    assert state(rows({"label": "a"}, {"label": "b"})) == first
    others = {
        state(rows({"label": "a"}, {"label": "c"})),
        state(rows({"label": "b"}, {"label": "a"})),
        state(rows({"label": "a", "text": "x"}, {"label": "b", "text": "y"})),
        state(rows({"label": "a"})),
    }
    state(rows({"label": "a"}, {"label": "b"}))
    os.utime(tmp_path / "1.png", (2, 2))
    others.add(digest(list_folder(tmp_path)))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes() + b" ")
    os.utime(tmp_path / "1.png", (1, 1))
    others.add(digest(list_folder(tmp_path)))
    assert len(others | {first}) == 7
