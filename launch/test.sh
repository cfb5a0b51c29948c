#!/usr/bin/env bash
# Installs the test extra and runs the tests. Usage: bash launch/test.sh [pytest options]
# The slow proofs too: bash launch/test.sh -m "slow or not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh test

ruff check .
ruff format --check .
lint-imports
python -m pytest "$@"
