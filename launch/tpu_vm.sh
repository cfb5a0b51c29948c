#!/usr/bin/env bash
# Trains on Cloud TPU VMs, v2 to v6e: one host or a slice of many, on demand, spot or queued.
#
# Usage: bash launch/tpu_vm.sh ACTION --name NAME --zone ZONE [--project PROJECT] [options] [-- marble train ...]
#   create   makes the machines        --accelerator_type T (v5e-8, v5e-32, v4-8, v6e-16, ...) [--spot] [--queued]
#                                      [--version RUNTIME] [--pass=OPTION of gcloud, such as --pass=--network=N] ...
#   setup    sends them this checkout and installs it; again after a change         [--extra tpu,gcs]
#   run      starts the command on every host, in the background, restarted when interrupted    [--max_restarts 100]
#   up       create, setup and run
#   watch    up where there is nothing yet; then stays, and when the machines have been pre-empted makes them again and
#            runs the same command, until it is done, has failed or was stopped      [--poll SECONDS (120)]
#   logs     of one host [--worker 0] [--follow]
#   status   of the machines and of the command on each host
#   stop     SIGTERM: the command saves on all hosts and is not started again
#   delete   the machines, and with them what is on their disks
#
# The workdir should be a bucket, gs://BUCKET/FOLDER: hosts of a slice share no disk, and a spot machine keeps none.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The runtime that serves an accelerator.
runtime() {
  case $accelerator_type in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

tpus() {
  gcloud compute tpus "$@" --zone="$zone" ${project:+--project="$project"} --quiet
}

create() {
  local kind=(tpu-vm create "$name" --version="$version")
  if [ -n "$queued" ]; then
    kind=(queued-resources create "$name" --node-id="$name" --runtime-version="$version")
  fi
  tpus "${kind[@]}" --accelerator-type="$accelerator_type" ${spot:+--spot} ${pass[@]+"${pass[@]}"}
  while [ -n "$queued" ] && [ "$(machines)" != ready ]; do
    case $(tpus queued-resources describe "$name" --format='value(state.state)') in
      FAILED | SUSPENDED) say "the request for $name has failed: delete it, then create again" && return 1 ;;
    esac
    say "waiting in the queue for $name"
    sleep "$poll"
  done
}

# ready, waiting or gone. What can't be asked is not gone, nor what is still in the queue.
machines() {
  local said request=''
  if ! said=$(tpus tpu-vm describe "$name" --format='value(state)' 2>&1); then
    if [ -n "$queued" ]; then
      request=$(tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null) || true
    fi
    case $request in
      ACCEPTED | WAITING_FOR_RESOURCES | CREATING | PROVISIONING) echo waiting && return ;;
    esac
    if [[ $said == *NOT_FOUND* ]]; then echo gone; else say "$said" && echo waiting; fi
    return
  fi
  case $said in
    *PREEMPTED* | *TERMINATED* | *STOPPED* | *SUSPENDED*) echo gone ;;
    *READY*) echo ready ;;
    *) echo waiting ;;
  esac
}

# on_workers "run -- words": launch/worker.sh with these words on the chosen hosts, all unless --worker says which.
on_workers() {
  tpus tpu-vm ssh "$name" --worker="${worker:-all}" --command="$(on_machine marble "$1")"
}

setup() {
  local folder
  folder=$(mktemp -d)
  pack_checkout "$folder/marble.tar.gz"
  tpus tpu-vm scp "$folder/marble.tar.gz" "$name:" --worker=all
  rm -r "$folder"
  tpus tpu-vm ssh "$name" --worker=all --command="mkdir -p marble && tar -xzf marble.tar.gz -C marble"
  on_workers "setup --extra $(quoted "$extra")"
}

run() {
  on_workers "run --max_restarts $max_restarts -- $(quoted "${words[@]}")"
}

up() {
  create
  setup
  run
}

status() {
  say "the machines are $(machines)"
  on_workers status
}

stop() {
  on_workers stop
}

delete() {
  if [ -n "$queued" ]; then
    tpus queued-resources delete "$name" --force
  else
    tpus tpu-vm delete "$name"
  fi
}

take_action "create setup run up watch logs status stop delete" "$@"
name='' zone='' project='' accelerator_type='' version='' spot='' queued=''
extra=tpu,gcs max_restarts=100 worker='' follow='' poll=120
parse_options "name zone project accelerator_type version extra max_restarts worker poll" "spot queued follow" "${@:2}"
require name zone
require_number max_restarts poll
case $action in
  create | up | watch)
    require accelerator_type
    accelerator_type=${accelerator_type/#v5e-/v5litepod-}
    version=${version:-$(runtime)}
    ;;
esac
case $action in
  run | up | watch)
    require_command
    [[ $(workdir_of "${words[@]}") == gs://* ]] || say "the workdir is no bucket: it stays on the machines' disks"
    ;;
esac
case $action in
  watch) watch_over "$poll" "$@" ;;
  logs) worker=${worker:-0} && on_workers "logs ${follow:+--follow}" ;;
  *) "$action" ;;
esac
