#!/usr/bin/env bash
# Packs what benchmarks/device.py needs on a machine with a GPU and no network, and prints the command to run there.
#
# Usage: bash launch/device_check.sh [--minutes 8] [--python 3.12]
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
parse_options "minutes python" "" "$@"
[[ $minutes =~ ^[0-9]+$ ]] || fail "--minutes '$minutes' is not a whole number"
[[ $python =~ ^3\.[0-9]+$ ]] || fail "--python '$python' is not a version such as 3.12"
((${#words[@]} == 0)) || fail "takes no command: leave out what follows --"
most=$((64 * 1024)) # kB, which is little enough to copy anywhere

packages=(
  ml-collections PyYAML absl-py six contextlib2
  grain array-record cloudpickle etils importlib_resources zipp fsspec typing_extensions
  tensorflow-datasets dm-tree immutabledict psutil protobuf simple_parsing docstring_parser tensorflow-metadata
  googleapis-common-protos termcolor toml wrapt attrs portpicker
  tensorboardX packaging pillow tqdm
  scikit-learn joblib threadpoolctl narwhals tokenizers
  diffusers huggingface_hub hf-xet safetensors regex requests urllib3 idna certifi charset-normalizer filelock
  importlib_metadata httpx httpcore anyio h11 sniffio
  pytest iniconfig pluggy pygments
)

rm -rf .device
mkdir -p .device/wheels
say "fetching wheels for Python $python into .device/wheels"
python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest .device/wheels \
  --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --platform manylinux2014_x86_64 --platform any "${packages[@]}"
python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir .device/wheels .
size=$(du -sk .device/wheels | cut -f1)
((size <= most)) || fail ".device/wheels has $((size / 1024)) MB, more than $((most / 1024)): take packages out of this script"
say "$(find .device/wheels -name '*.whl' | wc -l) wheels, $((size / 1024)) MB; on the machine, in the checkout:"
echo "python3 benchmarks/device_parts/unpack.py .device/wheels .device/site &&" \
  "PYTHONPATH=.device/site python3 benchmarks/device.py --out \"\${OUT:-device_results}\" --minutes $minutes"
