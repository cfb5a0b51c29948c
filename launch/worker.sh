#!/usr/bin/env bash
# One machine of a TPU slice, in its checkout: tpu_vm.sh and tpu_mig.sh call this on each of them.
#
# Usage: bash launch/worker.sh setup [--extra tpu,gcs]              Python, and marble with these extras, in .venv
#        bash launch/worker.sh run [--max_restarts N] -- COMMAND   in the background, restarted by supervise.sh
#        bash launch/worker.sh logs [--follow]
#        bash launch/worker.sh status      not set up, installing, not started, running, interrupted, done, stopped,
#                                          gave up, failed (STATUS)
#        bash launch/worker.sh stop        SIGTERM: it saves, and is not started again; nor what was about to start
#
# The log and the pid are in ~/marble-run.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$launch/.."

state=$HOME/marble-run

setup() {
  mkdir -p "$state"
  rm -f "$state/installed"
  echo $$ >"$state/installs"
  if [ -z "${VIRTUAL_ENV:-}" ] && [ ! -x .venv/bin/python ]; then
    # The images' own Python is older than marble's, or has no venv.
    command -v uv >/dev/null || curl --fail --silent --show-error --location https://astral.sh/uv/install.sh |
      env UV_UNMANAGED_INSTALL="$HOME/.local/bin" sh
    PATH=$HOME/.local/bin:$PATH uv venv --quiet --seed --python 3.12 .venv
  fi
  source launch/environment.sh "$extra"
  touch "$state/installed"
}

# runs pid supervise.sh: whether the process of this file's pid is this script.
runs() {
  local process
  [ -f "$state/$1" ] || return
  process=/proc/$(cat "$state/$1")/cmdline
  [ -f "$process" ] && tr '\0' ' ' <"$process" 2>/dev/null | grep "$2" >/dev/null
}

is_running() {
  runs pid supervise.sh
}

status() {
  local last
  last=$(cat "$state/ended" 2>/dev/null || true)
  if is_running; then
    echo running
  elif [ "$last" = stopped ]; then
    echo stopped
  elif [ ! -f "$state/installed" ]; then
    if runs installs worker.sh; then echo installing; else echo "not set up"; fi
  elif [ ! -f "$state/pid" ]; then
    echo "not started"
  else
    case $last in
      '') echo interrupted ;; # the machine went before it could say
      0) echo "done" ;;
      interrupted) echo interrupted ;;
      *) if goes_on "$last"; then echo "gave up"; else echo "failed ($last)"; fi ;;
    esac
  fi
}

run() {
  require_command
  if is_running; then
    say "already running on $HOSTNAME"
    return
  fi
  [ -f "$state/installed" ] || fail "$HOSTNAME is $(status): run setup first"
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
  fi
  rm -f "$state/pid" "$state/ended"
  mkdir -p "$state"
  # A session of its own, which the end of the ssh connection does not reach.
  setsid nohup bash launch/supervise.sh --max_restarts "$max_restarts" --state "$state" -- "${words[@]}" \
    >>"$state/log" 2>&1 </dev/null 3>&- &
  while [ ! -f "$state/pid" ]; do
    kill -0 $! 2>/dev/null || fail "it did not start; $(tail -n 3 "$state/log")"
    sleep 0.1
  done
  say "started on $HOSTNAME; its log: $state/log"
}

stop() {
  if is_running; then
    kill -TERM "$(cat "$state/pid")"
    for ((waited = 0; waited < 750; waited++)); do
      if ! is_running; then break; fi
      sleep 0.2
    done
    if is_running; then fail "it still runs 150 s after SIGTERM; its log: $state/log"; fi
  fi
  case $(status) in
    "done" | failed*) ;;
    *) mkdir -p "$state" && echo stopped >"$state/ended" ;;
  esac
  status
}

take_action "setup run logs status stop" "$@"
extra=tpu,gcs max_restarts=100 follow=''
parse_options "extra max_restarts" "follow" "${@:2}"
case $action in
  logs) tail -n 50 ${follow:+-f} "$state/log" ;;
  status) echo "$HOSTNAME: $(status)" ;;
  stop) echo "$HOSTNAME: $(stop)" ;;
  *) "$action" ;;
esac
