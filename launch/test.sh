#!/usr/bin/env bash
# Installs the test extra and runs the tests. Usage: bash launch/test.sh [--parity] [pytest options]
# The slow proofs too: bash launch/test.sh -m "slow or not slow". In one process: -n 0.
# Beside PyTorch, diffusers and transformers with the same weights: bash launch/test.sh --parity. Those that are marked
# parity alone, for which the extra parity is installed; without it they are skipped, and say so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=test checks=()
if [ "${1:-}" = --parity ]; then
  shift
  extras=test,parity checks=(-m "parity and not slow")
fi
source launch/environment.sh "$extras"
if [ "$extras" != test ]; then
  # Its own requirement, torchvision, is of another build than the torch above, and no test needs it.
  python -m pip install --quiet --disable-pip-version-check --no-deps torch-fidelity==0.4.0
fi

ruff check .
ruff format --check .
lint-imports
cores=$(getconf _NPROCESSORS_ONLN)
python -m pytest -n "$((cores < 4 ? cores : 4))" --dist loadfile --no-loadscope-reorder "${checks[@]}" "$@"
