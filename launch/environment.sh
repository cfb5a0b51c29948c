# Sourced by the other scripts: an environment with marble in it. Uses the active one, else makes .venv.
# Usage: source launch/environment.sh [EXTRA,...]

# The first Python of a version that marble is tested with; a python3 that is newer is passed over.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "marble needs Python 3.11, 3.12 or 3.13, but PATH has $(python3 --version 2>/dev/null || echo none):" \
    "install one of these, or activate an environment that has it" >&2
  exit 2
}

# The extra that serves the accelerator of this machine: cuda13, cuda12, tpu, or nothing.
# src/marble/parallel/devices.py has the same rules, for its warning.
accelerator_extra() {
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    case "$(nvidia-smi | grep -o 'CUDA Version: [0-9]*' | grep -o '[0-9]*$')" in
      1[0-2]) echo cuda12 ;;
      *) echo cuda13 ;;
    esac
  elif compgen -G '/dev/accel[0-9]*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null || [ -n "${TPU_NAME:-}" ]; then
    echo tpu
  fi
}

# Installs marble and the given extras (comma separated) into the active environment.
install_marble() {
  local extras
  extras=$(printf '%s\n%s\n' "$(accelerator_extra)" "${1:-}" | grep . | paste -sd, || true)
  echo "installing marble${extras:+[$extras]} into $(python -c 'import sys; print(sys.prefix)')"
  python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
}

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    python_found=$(find_python)
    echo "making .venv with $("$python_found" --version)"
    "$python_found" -m venv .venv
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
install_marble "${1:-}"
