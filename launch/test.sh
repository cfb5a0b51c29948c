#!/usr/bin/env bash
# Installs the test extra and runs the tests. Usage: bash launch/test.sh [pytest options]
# The slow proofs too: bash launch/test.sh -m "slow or not slow". In one process: -n 0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh test

ruff check .
ruff format --check .
lint-imports
cores=$(getconf _NPROCESSORS_ONLN)
python -m pytest -n "$((cores < 4 ? cores : 4))" --dist loadfile --no-loadscope-reorder "$@"
