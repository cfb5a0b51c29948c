#!/usr/bin/env bash
# Trains on GPUs of a SLURM cluster: submits a job of one task a GPU, which is queued again when it was interrupted.
#
# Usage: bash launch/slurm.sh --nodes N --gpus_per_node G [options] -- marble train --config C --workdir W
#   --nodes N            how many nodes
#   --gpus_per_node G    GPUs of each that are used
#   --name NAME          of the job (marble)
#   --max_restarts R     how often the job is queued again (100)
#   --logs FOLDER        slurm.log, and task-I.log for each task, on a shared file system (WORKDIR/logs, else in ./logs)
#   --pass=OPTION        of sbatch, such as --pass=--partition=gpu --pass=--time=24:00:00
#
# SIGTERM reaches the tasks a minute before the time limit, or when SLURM pre-empts the job; they save and end with 75.
# Then, and when a task was killed, the job is queued again. Exit status 1 or 2 of a task ends it. Follow it with
# squeue and tail -f; scancel --signal=TERM JOB saves and queues again, scancel JOB ends it.
# It runs with the environment of the submitting shell: activate the one that has marble.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

submit() {
  mkdir -p "$logs"
  # --wrap, for SLURM would run a copy of this file, away from common.sh.
  sbatch --job-name="$name" --nodes="$nodes" --ntasks="$((nodes * gpus_per_node))" \
    --ntasks-per-node="$gpus_per_node" --gpus-per-node="$gpus_per_node" \
    --requeue --signal=TERM@60 --open-mode=append --output="${logs//%/%%}/slurm.log" ${pass[@]+"${pass[@]}"} \
    --wrap="exec bash $(quoted "$launch/slurm.sh" job --logs "$logs" --max_restarts "$max_restarts" -- "${words[@]}")"
}

# The job: on its first node, once. It has no trap, for scancel JOB has to end it before it queues the job again.
job() {
  local status=0 file fault=0 again=''
  rm -f "$logs"/exit-"$SLURM_JOB_ID"-*
  # Every task sees all GPUs of its node, as jax expects. The others have 90 s when a task has ended.
  srun --gpu-bind=none --kill-on-bad-exit=0 --wait=90 --open-mode=append --output="${logs//%/%%}/task-%t.log" \
    bash "$launch/slurm.sh" task --logs "$logs" -- "${words[@]}" || status=$?
  for ((task = 0; task < SLURM_NTASKS; task++)); do
    file=$logs/exit-$SLURM_JOB_ID-$task
    if [ ! -f "$file" ]; then
      say "task $task has gone; its log: $logs/task-$task.log" # with its node, or killed with all it had
      again=yes
    elif [ "$(cat "$file")" != 0 ]; then
      say "task $task $(ended "$(cat "$file")"); its log: $logs/task-$task.log"
      if goes_on "$(cat "$file")"; then again=yes; else fault=$(cat "$file"); fi
    fi
  done
  if ((fault)); then
    say "not queued again: exit status $fault is no interruption"
    exit "$fault"
  fi
  if [ -z "$again" ]; then exit "$status"; fi
  if ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
    say "queued again $SLURM_RESTART_COUNT times, which is --max_restarts: giving up"
    exit 75
  fi
  say "queueing the job again"
  scontrol requeue "$SLURM_JOB_ID"
}

# A task: the command, whose exit status srun would not tell task by task.
task() {
  local status=0
  trap : TERM INT # SLURM signals the command too; this waits for it
  "${words[@]}" || status=$?
  echo "$status" >"$logs/exit-$SLURM_JOB_ID-$SLURM_PROCID"
  exit "$status"
}

action=submit
case ${1:-} in
  job | task) action=$1 && shift ;;
  '') usage && exit 2 ;;
esac
nodes='' gpus_per_node='' name=marble max_restarts=100 logs=''
parse_options "nodes gpus_per_node name max_restarts logs" "" "$@"
if [ "$action" = submit ]; then
  require nodes gpus_per_node
  require_number nodes gpus_per_node
fi
require_number max_restarts
require_command
[ -n "$logs" ] || logs=$(logs_folder)
[[ $logs == /* ]] || logs=$PWD/$logs
keep_compiled_programs
"$action"
