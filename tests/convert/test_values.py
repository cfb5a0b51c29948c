"""Values of published configs: what can't be is told with its file, key and value."""

import json
import shutil

import pytest
import small_networks

from marble.convert import pipeline_folder
from marble.convert.folder import config_and_kind, model_of, open_part, params_of_part, read_published
from marble.convert.kinds import KINDS
from marble.convert.values import KINDS_OF_VALUES, NEEDED, NEEDED_OF_SCHEDULERS, check_values
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
ODD = [None, True, 0, -1, 10**9, 1.5, float("nan"), "a", [], [None], ["a", 3], [3, 5], [[1]], [{}], {}, {"a": [1]}]
NETWORKS = ["unet", "unet_xl", "pixels", "classes", "autoencoder", "tiny_autoencoder", "clip_text", "bert_text"]


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
            assert "\n" not in str(error) and str(error).startswith(str(folder))
    assert refused > 0 or key == "scheduler"  # whose class its own file says


@pytest.mark.parametrize("name", NETWORKS)
def test_whatever_a_key_of_a_network_says_it_is_a_network_or_refused_with_its_file(tmp_path, name):
    config = getattr(small_networks, name)().config
    path = tmp_path / "config.json"

    def read(content):
        path.write_text(json.dumps(content))
        found, kind = config_and_kind(tmp_path)
        KINDS[kind].table(model_of(tmp_path, found, kind), found)

    read(config)
    refused = set()
    for key in config:
        for value in ODD:
            try:
                read({**config, key: value})
            except InputError as error:
                refused.add(key)
                assert "\n" not in str(error) and str(error).startswith(str(tmp_path))
    assert refused >= set(config) & set(KINDS_OF_VALUES)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("sample_size", [64, [64, 64]], [0, -8, "64", True, [], [0], 1e3, 2**30]),
        ("layers_per_block", [1, 1000], [0, [1, 2], 10**9]),
        ("num_attention_heads", [8], [0, -1, [8, 8], 2.0]),
        ("block_out_channels", [[8, 16]], [8, [], [0], [[8]], "8"]),
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
    for value in good if key in NEEDED else [*good, None]:
        check_values({key: value, "other": object()}, "config.json")
        check_values({"text_config": {key: value}}, "config.json")
    for value in bad:
        with pytest.raises(InputError, match=f"^config.json: {key} is .* and must be "):
            check_values({key: value}, "config.json")
        with pytest.raises(InputError, match=key):
            check_values({"text_config": {key: value}}, "config.json")


def test_a_key_with_a_value_for_each_level():
    for class_name in ("UNet2DConditionModel", "FlaxUNet2DConditionModel"):
        unet = {"_class_name": class_name, "transformer_layers_per_block": [[1, 2], [3]], "layers_per_block": [1, 2]}
        check_values({**unet, "attention_head_dim": [8, 8], "cross_attention_dim": 12}, "config.json")
        for key, value in [("attention_head_dim", [8, 0]), ("transformer_layers_per_block", [[[1]]])]:
            with pytest.raises(InputError, match=f"{key} is .* and must be a whole number from 1 to .*list of such"):
                check_values({**unet, key: value}, "config.json")


def test_what_has_to_be_said_of_a_scheduler_can_be_none_in_a_network():
    nothing = dict.fromkeys(NEEDED_OF_SCHEDULERS)
    check_values({"_class_name": "UNet2DModel", **nothing}, "config.json")
    for key in nothing:
        with pytest.raises(InputError, match=f"{key} is None, and must be "):
            check_values({"_class_name": "DDIMScheduler", key: None}, "scheduler_config.json")


def test_a_config_of_more_arrays_than_the_file_has_is_not_traced(tmp_path, monkeypatch):
    small_networks.write(tmp_path, small_networks.clip_text())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1000}))
    monkeypatch.setattr("marble.convert.folder.shapes_of", None)
    with pytest.raises(InputError, match=r"has 36 arrays, and config.json asks for 16004: they are not of one network"):
        params_of_part(open_part(tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("unet", {"norm_num_groups": 7}, "channels can't be split into num_groups 7"),
        ("clip_text", {"num_attention_heads": 5}, "12 channels can't be split into num_heads 5: take num_heads 4"),
    ],
)
def test_a_config_that_is_no_network_is_named_with_its_file(tmp_path, name, change, message):
    network = getattr(small_networks, name)()
    small_networks.write(tmp_path, network)
    (tmp_path / "config.json").write_text(json.dumps({**network.config, **change}))
    with pytest.raises(InputError, match=f"^{tmp_path}/config.json: .*{message}"):
        params_of_part(open_part(tmp_path))


def test_the_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"in_channels": null}')
    with pytest.raises(InputError, match=f"{tmp_path}/config.json: in_channels is None, and must be a whole number"):
        read_published(tmp_path / "config.json", "")


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_a_part_that_is_not_there_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(InputError, match=f"has no {part}/, which its model_index.json names: download the whole of it"):
        pipeline_folder.described(folder)
