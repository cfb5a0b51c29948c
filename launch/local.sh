#!/usr/bin/env bash
# Trains with several processes on this machine, as on several hosts: they start, end and start again together.
#
# Usage: bash launch/local.sh --processes N [options] -- marble train --config C --workdir W
#   --processes N             how many
#   --devices_per_process D   virtual CPU devices of each; without it, what jax finds
#   --gpus_per_process G      instead: the first process has the first G GPUs, the second the next, and so on; of those
#                             that CUDA_VISIBLE_DEVICES names, or of the machine's
#   --port P                  where they meet on this machine (one by chance, another at each start)
#   --max_restarts R          how often to start them again (100)
#   --pause SECONDS           before each restart (5)
#   --grace SECONDS           for the others to end by themselves when one has ended (90)
#   --logs FOLDER             a file process-I.log for each (WORKDIR/logs; ./logs/NAME for gs://BUCKET/NAME)
#
# When one ends with 75 or by a signal, all are started again. When one ends with 1 or 2, all are stopped, and that is
# the exit status. SIGTERM and Ctrl-C go to all; they save, nothing is started again, and the exit status is 75.
# To have it outlive the terminal: nohup bash launch/local.sh ... &
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes='' devices_per_process='' gpus_per_process='' port='' max_restarts=100 pause=5 grace=90 logs=''
parse_options "processes devices_per_process gpus_per_process port max_restarts pause grace logs" "" "$@"
require processes
require_number processes max_restarts pause grace
[ -z "$port" ] || require_number port
((processes > 0)) || fail "--processes $processes: there has to be one"
require_command
[ -n "$logs" ] || logs=$(logs_folder)
mkdir -p "$logs"
keep_compiled_programs

export JAX_NUM_PROCESSES=$processes
if [ -n "$devices_per_process" ]; then
  require_number devices_per_process
  [ -z "$gpus_per_process" ] || fail "--devices_per_process is for CPUs and --gpus_per_process for GPUs: give one"
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices_per_process
fi
if [ -n "$gpus_per_process" ]; then
  require_number gpus_per_process
  ((gpus_per_process > 0)) || fail "--gpus_per_process $gpus_per_process: there has to be one"
  needed=$((processes * gpus_per_process))
  IFS=, read -r -a gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s , 0 $((needed - 1)))}"
  ((${#gpus[@]} >= needed)) || fail "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has fewer GPUs than $needed"
fi

pids=() stopping='' signalled=''
trap 'signalled=yes stopping=yes' TERM INT HUP
start_all() {
  local i meeting=$port
  pids=()
  while [ -z "$meeting" ]; do
    meeting=$((20000 + RANDOM % 10000))
    if (exec 4<>"/dev/tcp/127.0.0.1/$meeting") 2>/dev/null; then meeting=''; fi # somebody answers there
  done
  export JAX_COORDINATOR_ADDRESS=127.0.0.1:$meeting
  set -m # each in a process group of its own, so that Ctrl-C reaches it through this script, once
  for ((i = 0; i < processes; i++)); do
    if [ -n "$gpus_per_process" ]; then
      CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:i*gpus_per_process:gpus_per_process}")
      export CUDA_VISIBLE_DEVICES
    fi
    JAX_PROCESS_ID=$i "${words[@]}" </dev/null >>"$logs/process-$i.log" 2>&1 3>&- &
    pids[i]=$!
  done
  set +m
}

signal_all() {
  local i
  for ((i = 0; i < processes; i++)); do
    [ -n "${statuses[i]}" ] || kill "-$1" "${pids[i]}" || true
  done
}

# Waits for all; their exit statuses are in statuses, that of the first fault in fault, and again says whether one was
# interrupted. Each that is not simply done is named. The deadline runs from the first of them on, for a process whose
# peer has gone may wait for it for ever.
wait_for_all() {
  local i running deadline='' asked=''
  statuses=() fault=0 again=''
  for ((i = 0; i < processes; i++)); do statuses[i]=''; done
  while true; do
    if [ -n "$stopping" ] && [ -z "$asked" ]; then
      asked=yes deadline=$((SECONDS + grace))
      signal_all TERM
    fi
    running=0
    for ((i = 0; i < processes; i++)); do
      if [ -n "${statuses[i]}" ]; then continue; fi
      if kill -0 "${pids[i]}"; then
        running=$((running + 1))
        continue
      fi
      wait_for "${pids[i]}"
      statuses[i]=$status
      ((status != 0)) || continue
      say "process $i $(ended "$status"); its log: $logs/process-$i.log"
      : "${deadline:=$((SECONDS + grace))}"
      if goes_on "$status"; then
        again=yes
      elif ((fault == 0)); then
        fault=$status asked=yes
        signal_all TERM
      fi
    done
    if ((running == 0)); then break; fi
    if [ -n "$deadline" ] && ((SECONDS >= deadline)); then
      say "$running of $processes still run after $grace seconds: killing them"
      deadline=$((SECONDS + grace))
      signal_all KILL
    fi
    sleep 0.2 || true
  done
}

for ((restarts = 0; ; restarts++)); do
  start_all
  wait_for_all 2>/dev/null
  if ((fault)); then
    say "not started again: exit status $fault is no interruption"
    exit "$fault"
  fi
  if [ -z "$again" ]; then exit 0; fi
  if [ -n "$stopping" ]; then exit 75; fi
  if ((restarts >= max_restarts)); then
    say "started again $restarts times, which is --max_restarts: giving up"
    exit 75
  fi
  sleep "$pause" || true
  if [ -n "$stopping" ]; then exit 75; fi
  say "starting all $processes again ($((restarts + 1)) of at most $max_restarts times)"
done
