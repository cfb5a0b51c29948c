#!/usr/bin/env bash
# Trains all parts of a text-to-image model from scratch, in order, and ends with pictures for ten prompts.
# Usage: bash launch/text_to_image.sh [WORKDIR [DATA]]        (default: runs/emoji)
# DATA is a folder of captioned images in the Hugging Face layout; without one the pictures of an installed colour-emoji
# font are taken (Debian's fonts-noto-color-emoji), by the names that Unicode has for them.
# FAMILY=cifar10_text is the other family of configs: CIFAR-10 by the names of its classes, which is downloaded, or made
# of the originals in DATA (default: runs/cifar10_text).
# On a CPU it is the small form; VARIANT= or VARIANT=:tiny says which. Stopped, the same command goes on.
set -euo pipefail
family=${FAMILY:-emoji}
called_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
absolute() {
  if [[ "$1" == /* ]]; then echo "$1"; else echo "$called_in/$1"; fi
}
workdir=$(absolute "${1:-$PWD/runs/$family}") given=${2:+$(absolute "$2")}
source launch/environment.sh features  # what the full autoencoder is told by
variant=${VARIANT-$(python -c "import jax; print(':tiny' if jax.default_backend() == 'cpu' else '')")}
mkdir -p "$workdir"
started=$SECONDS total=6

part() {
  local number=$1 name=$2 seconds=$((SECONDS - started))
  printf '\n=== part %d of %d: %s (%d min %02d s so far)\n' "$number" "$total" "$name" $((seconds / 60)) $((seconds % 60))
}

train() {
  local name=$1
  shift
  marble train --config "configs/$family/$name.py$variant" --workdir "$workdir/$name" \
    --config.data.data_dir="$workdir/prepared" "${of_data[@]}" "$@"
}

part 1 "the images and their texts"
of_data=()
if [ "$family" = cifar10_text ]; then
  marble data prepare cifar10 --data_dir "$workdir/prepared" ${given:+--source "$given"}
else
  data=${given:-$workdir/data}
  if [ -z "$given" ] && [ ! -e "$data/metadata.jsonl" ]; then
    marble data emoji --out "$data"
  fi
  of_data=(--config.data.source="$data")
fi

part 2 "autoencoder: images to latents and back"
train autoencoder

part 3 "CLIP: texts and images in one space"
train clip

part 4 "diffusion in latents, told of texts"
train latent --config.autoencoder.path="$workdir/autoencoder/vae" \
  --config.autoencoder.cache="$workdir/latents" \
  --config.text.encoders="('$workdir/clip/clip',)" --config.text.tokenizers="('$workdir/clip/clip',)"

part 5 "upsampler: the other decoder"
train upsampler

part 6 "pictures"
python -c "
from marble.configs.$family import PROMPTS
print(*PROMPTS, sep='\n')" > "$workdir/prompts.txt"
marble sample --workdir "$workdir/latent" --text "@$workdir/prompts.txt" --num 40 --seed 0 --out "$workdir/out" --gif
if [ "$family" = emoji ]; then  # whose originals are large enough to learn it from
  marble sample --workdir "$workdir/latent" --text "@$workdir/prompts.txt" --num 10 --seed 0 \
    --upsampler "$workdir/upsampler" --out "$workdir/larger"
fi
seconds=$((SECONDS - started))
echo
echo "trained and sampled in $((seconds / 60)) min $((seconds % 60)) s. Look at:"
echo "  $workdir/out/samples.png       four pictures of each of ten prompts, a column each"
echo "  $workdir/out/trajectory.gif    how they came out of noise"
[ "$family" != emoji ] || echo "  $workdir/larger/samples.png    one of each, made twice as large by the upsampler"
echo "  $workdir/*/samples             what the parts that draw could do while they trained"
echo "and draw what you like: marble sample --workdir $workdir/latent --text TEXT, or on a page: marble demo --workdir $workdir/latent"
