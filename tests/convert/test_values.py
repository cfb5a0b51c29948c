"""Values of published configs: what can't be is told with its file, key and value."""

import json
import shutil

import pytest

from marble.convert import pipeline_folder
from marble.convert.folder import read_json
from marble.convert.values import KINDS_OF_VALUES, check_values
from marble.errors import InputError

UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 10,
    "beta_start": 0.001,
    "beta_end": 0.2,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
}
INDEX = {
    "_class_name": "DDPMPipeline",
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}
FILES = {"model_index.json": INDEX, "unet/config.json": UNET, "scheduler/scheduler_config.json": SCHEDULER}
ODD = [None, 0, -1, "a", [], {}, 1.5, [None], ["a", 3], 10**12]


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "pipeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path / "pipeline"


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, content in FILES.items() for key in content])
def test_whatever_a_key_says_it_is_read_or_refused_in_one_line(folder, name, key):
    pipeline_folder.described(folder)
    refused = 0
    for value in ODD:
        (folder / name).write_text(json.dumps({**FILES[name], key: value}))
        try:
            pipeline_folder.described(folder)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 0 or key == "scheduler"  # whose class its own file says


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("sample_size", [64, [64, 64]], [0, -8, "64", True, [], [0], 1e3, 2**30]),
        ("transformer_layers_per_block", [1, [1, 2], [[1, 2], [3]]], [0, [[[1]]], 10**9]),
        ("scaling_factor", [0.18215, 1], [0, "x", -1.0, True]),
        ("steps_offset", [0, 1], [-1, "a", 0.5]),
        ("beta_start", [0, 0.1], [-0.1, "0.1"]),
        ("clip_sample", [True, False], ["a", 1]),
        ("beta_schedule", ["linear"], [3, ["linear"]]),
        ("down_block_types", [["DownBlock2D"]], ["DownBlock2D", [3]]),
    ],
)
def test_kinds_of_values(key, good, bad):
    assert key in KINDS_OF_VALUES
    for value in [*good, None]:
        check_values({key: value, "other": object()}, "config.json")
        check_values({"text_config": {key: value}}, "config.json")
    for value in bad:
        with pytest.raises(InputError, match=f"^config.json: {key} is .* and must be "):
            check_values({key: value}, "config.json")
        with pytest.raises(InputError, match=key):
            check_values({"text_config": {key: value}}, "config.json")


def test_the_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"in_channels": null}')
    with pytest.raises(InputError, match=f"{tmp_path}/config.json: in_channels is None, and must be a whole number"):
        read_json(tmp_path / "config.json", "")


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_a_part_that_is_not_there_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(InputError, match=f"has no {part}/, which its model_index.json names: download the whole of it"):
        pipeline_folder.described(folder)
