#!/usr/bin/env bash
# Trains a diffusion model on real handwritten digits and samples it: minutes on a laptop.
# Usage: bash launch/quickstart.sh [WORKDIR]        (default: runs/digits)
set -euo pipefail
called_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
workdir=${1:-runs/digits}
[[ -z "${1:-}" || "$1" == /* ]] || workdir=$called_in/$1
source launch/environment.sh ""  # or it would take WORKDIR for extras

started=$SECONDS
marble train --config configs/digits.py --workdir "$workdir"
marble sample --workdir "$workdir" --num 64 --seed 0 --out "$workdir/out" --gif
echo
echo "trained and sampled in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Look at:"
echo "  $workdir/out/samples.png       64 generated digits"
echo "  $workdir/out/trajectory.gif    how they came out of noise"
