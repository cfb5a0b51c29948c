#!/usr/bin/env bash
# Runs a command, and runs it again while it ends with status 75 (saved, or a peer was lost) or by a signal.
# Any other status ends it: 0 done, 1 a fault, 2 wrong input. The other scripts use it on each machine.
#
# Usage: bash launch/supervise.sh [options] -- marble train --config C --workdir W
#   --max_restarts N   how often to start it again (100)
#   --pause SECONDS    before each restart (5)
#   --grace SECONDS    for the command to end after SIGTERM, before it is killed (120)
#   --state FOLDER     leaves there its pid, and at the end in the file "ended" the command's last status
#
# SIGTERM is passed on to the command, which saves; then nothing is started again. Ends with the command's status.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

max_restarts=100 pause=5 grace=120 state=''
parse_options "max_restarts pause grace state" "" "$@"
require_command
require_number max_restarts pause grace
keep_compiled_programs

child='' told='' killer='' stopping='' signalled=''
# shellcheck disable=SC2329
stop() {
  signalled=yes stopping=yes
  if [ "$child" != "$told" ]; then # once, for a second signal would cut its saving short
    told=$child
    kill -TERM "$child" 2>/dev/null || true
    # Python hears no signal while it waits in C++ for a peer that is not coming.
    (sleep "$grace" && kill -KILL "$child") >/dev/null 2>&1 3>&- &
    killer=$!
  fi
}
trap stop TERM INT

if [ -n "$state" ]; then
  mkdir -p "$state"
  rm -f "$state/ended"
  echo $$ >"$state/pid"
fi

# Runs a command; its exit status is in status.
attend() {
  "$@" </dev/null 3>&- &
  child=$!
  if [ -n "$stopping" ]; then stop; fi # the signal came before there was a child
  wait_for "$child" 2>/dev/null
  child='' told=''
}

for ((restarts = 0; ; restarts++)); do
  attend "${words[@]}"
  say "${words[0]} $(ended "$status")"
  if [ -n "$stopping" ] || ! goes_on "$status"; then break; fi
  if ((restarts >= max_restarts)); then
    say "started again $restarts times, which is --max_restarts: giving up"
    break
  fi
  last=$status
  attend sleep "$pause"
  status=$last
  if [ -n "$stopping" ]; then break; fi
  say "starting it again ($((restarts + 1)) of at most $max_restarts times)"
done

if [ -n "$killer" ]; then kill "$killer" 2>/dev/null || true; fi
if [ -n "$state" ]; then
  if [ -n "$stopping" ] && goes_on "$status"; then echo interrupted; else echo "$status"; fi >"$state/ended"
fi
exit "$status"
