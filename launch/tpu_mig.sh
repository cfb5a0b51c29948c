#!/usr/bin/env bash
# Trains on Compute Engine TPUs, v5e to TPU7x and on: a managed instance group whose VMs are made all at once, as one
# slice. Every VM installs the checkout and starts the command when it boots, so also after a restart.
#
# Usage: bash launch/tpu_mig.sh ACTION --name NAME --project PROJECT --zone ZONE [options] [-- marble train ...]
#   create   the slice, which starts the command
#            --machine_type M       ct6e-standard-4t, ct5p-hightpu-4t, ...: -4t has 4 chips
#            --topology T           4x4, 4x8, 2x2x4, ...; one host: the chips of one machine, 2x2
#            --spot                 SPOT provisioning
#            --image_family F       of the project ubuntu-os-accelerator-images (ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e)
#            --max_restarts R       of the command on each host (100)
#            --extra E              what marble is installed with (tpu,gcs)
#            --pass=OPTION          of gcloud compute instance-templates create, such as --pass=--network=N; ...
#   watch    create where there is nothing yet; then stays, and when VMs have been pre-empted makes the slice again,
#            until the command is done, has failed or was stopped        [--poll SECONDS (120)]
#   logs     of one host [--worker 0] [--follow]
#   status   of the VMs and of the command on each
#   stop     SIGTERM: the command saves on all hosts and is not started again
#   run      goes on after stop, with the command given
#   delete   group, template and policy
#
# The workdir has to be a bucket, gs://BUCKET/FOLDER: it also carries the checkout to the VMs, in launch/.
# Needs a gcloud that knows: gcloud compute instance-groups managed create --target-size-policy-mode
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

compute() {
  gcloud compute "$@" --project="$project" --quiet
}

group() {
  compute instance-groups managed "$1" "$name" --zone="$zone" "${@:2}"
}

# What each VM does at boot, as root. The values stand in it quoted.
startup_script() {
  cat <<EOF_STARTUP
#!/usr/bin/env bash
set -euo pipefail
export HOME=/root
mkdir -p /opt/marble
cd /opt/marble
gcloud storage cp $(quoted "$1" -) | tar -xz -C /opt/marble
[[ \$(bash launch/worker.sh status) != *": not set up" ]] || bash launch/worker.sh setup --extra $(quoted "$extra")
[[ \$(bash launch/worker.sh status) == *stopped ]] ||
  bash launch/worker.sh run --max_restarts $max_restarts -- $(quoted "${words[@]}")
EOF_STARTUP
}

hosts() {
  local chips=${machine_type##*-}
  chips=${chips%t}
  [[ $topology =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "--topology '$topology' is not of the form 4x4"
  [[ $chips =~ ^[1-9][0-9]*$ ]] || fail "--machine_type '$machine_type' does not end with its chips, as -4t"
  local all=$((${topology//x/*}))
  ((all % chips == 0)) || fail "--topology $topology is not made of machines of $chips chips ($machine_type)"
  echo $((all / chips))
}

create() {
  local folder source size region=${zone%-*}
  local template_options=() group_options=()
  size=$(hosts)
  source=$(workdir_of "${words[@]}")
  source=${source%/}/launch/$name.tar.gz
  folder=$(mktemp -d)
  pack_checkout "$folder/marble.tar.gz"
  gcloud storage cp "$folder/marble.tar.gz" "$source" --project="$project"
  startup_script "$source" >"$folder/startup.sh"
  if [ -n "$spot" ]; then
    template_options+=(--provisioning-model=SPOT --instance-termination-action=STOP)
  fi
  if ((size > 1)); then
    compute resource-policies create workload-policy "$name" --region="$region" \
      --type=HIGH_THROUGHPUT --accelerator-topology="$topology"
    group_options+=(--workload-policy="projects/$project/regions/$region/resourcePolicies/$name")
  fi
  compute instance-templates create "$name" --machine-type="$machine_type" --maintenance-policy=TERMINATE \
    --image-project=ubuntu-os-accelerator-images --image-family="$image_family" --boot-disk-size=100GB \
    --scopes=cloud-platform --metadata-from-file=startup-script="$folder/startup.sh" \
    ${template_options[@]+"${template_options[@]}"} ${pass[@]+"${pass[@]}"}
  group create --template="$name" --size="$size" --target-size-policy-mode=bulk \
    --default-action-on-vm-failure=do-nothing ${group_options[@]+"${group_options[@]}"}
  rm -r "$folder"
}

instances() {
  group list-instances --format='value(instance.basename(),instanceStatus)'
}

# ready, waiting or gone. A slice that has lost one VM has lost all; what can't be asked is not gone.
machines() {
  local said
  if ! said=$(instances 2>&1); then
    if [[ $said == *"was not found"* ]]; then echo gone; else say "$said" && echo waiting; fi
    return
  fi
  case $said in
    *STOPPING* | *TERMINATED* | *SUSPENDED*) echo gone ;;
    *PROVISIONING* | *STAGING* | '') echo waiting ;;
    *) echo ready ;;
  esac
}

# on_workers "status": launch/worker.sh with these words on every VM, or on the one that --worker says.
on_workers() {
  local index=0 failed=0 instance started=()
  for instance in $(instances | cut -f1 | sort); do
    if [ -z "$worker" ] || ((index == worker)); then
      # All at once: one host that is stopped alone is a lost peer to the others.
      compute ssh "$instance" --zone="$zone" --command="sudo -H bash -c $(quoted "$(on_machine /opt/marble "$1")")" </dev/null &
      started+=($!)
    fi
    index=$((index + 1))
  done
  ((${#started[@]})) || fail "the group $name has no VM ${worker:-yet}"
  for instance in "${started[@]}"; do wait "$instance" || failed=$?; done
  return "$failed"
}

up() {
  create
}

setup() {
  on_workers "setup --extra $(quoted "$extra")"
}

run() {
  on_workers "run --max_restarts $max_restarts -- $(quoted "${words[@]}")"
}

status() {
  instances
  on_workers status
}

stop() {
  on_workers stop
}

delete() {
  local status=0
  group delete || status=$?
  compute instance-templates delete "$name" || status=$?
  # A slice of one host has none.
  compute resource-policies delete "$name" --region="${zone%-*}" || say "there is no workload policy $name"
  return "$status"
}

take_action "create up setup run watch logs status stop delete" "$@"
name='' project='' zone='' machine_type='' topology='' spot='' image_family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e
max_restarts=100 extra=tpu,gcs worker='' follow='' poll=120
parse_options "name project zone machine_type topology image_family max_restarts extra worker poll" "spot follow" \
  "${@:2}"
require name project zone
require_number max_restarts poll
case $action in
  create | up | watch) require machine_type topology ;;
esac
case $action in
  create | up | run | watch)
    require_command
    require_bucket
    ;;
esac
case $action in
  watch) watch_over "$poll" "$@" ;;
  logs) worker=${worker:-0} && on_workers "logs ${follow:+--follow}" ;;
  *) "$action" ;;
esac
