#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet (launch/jobset.yaml). The cluster needs the JobSet controller and
# node pools of that accelerator and topology; kubectl has to point at it.
#
# Usage: bash launch/gke.sh ACTION --name NAME [--namespace N] [options] [-- marble train ...]
#   apply    starts the command, or goes on with one that was stopped
#            --image I              built from launch/Dockerfile with EXTRA=tpu,gcs
#            --accelerator A        tpu-v5-lite-podslice, tpu-v6e-slice, tpu-v5p-slice, tpu-v4-podslice, ...
#            --topology T           2x4, 4x8, 2x2x2, ...
#            --chips_per_host H     4 (8 for 2x4 on ct5lp-hightpu-8t or ct6e-standard-8t)
#            --max_restarts R       of the whole slice, when pods were pre-empted or killed, or ended with 75 (100)
#            --service_account S    a Kubernetes account that may write to the bucket (default)
#            --spot                 on spot nodes
#   render   prints what apply would send
#   logs     of the host with index 0, or [--worker I] [--follow]
#   status   of the JobSet and its pods
#   stop     SIGTERM: the command saves on all hosts; apply goes on
#   delete
#
# A pod that ends with 1 or 2 ends the JobSet. The workdir has to be a bucket.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The JobSet, in which every value of ours is JSON, so that no quote or colon in it is YAML's.
render() {
  local python
  python=$(command -v python3 || command -v python) || fail "there is no python3: install it"
  "$python" - "$launch/jobset.yaml" "$name" "$namespace" "$image" "$accelerator" "$topology" "$chips_per_host" \
    "$max_restarts" "$service_account" "$spot" "${JAX_COMPILATION_CACHE_DIR:-}" "${words[@]}" <<'PYTHON'
import json
import math
import string
import sys

(path, name, namespace, image, accelerator, topology, chips, restarts, account, spot, cache), words = (
    sys.argv[1:12],
    sys.argv[12:],
)


def literal(word):
    return word.replace("$(", "$$(")  # Kubernetes itself would expand $(NAME)


selector = {"cloud.google.com/gke-tpu-accelerator": accelerator, "cloud.google.com/gke-tpu-topology": topology}
if spot:
    selector["cloud.google.com/gke-spot"] = "true"
hosts, rest = divmod(math.prod(map(int, topology.split("x"))), int(chips))
if rest or not hosts:
    sys.exit(f"launch/gke.sh: --topology {topology} is not made of hosts of --chips_per_host {chips}")
values = {
    "name": name,
    "namespace": namespace,
    "image": image,
    "node_selector": selector,
    "hosts": hosts,
    "chips_per_host": int(chips),
    "max_restarts": int(restarts),
    "service_account": account,
    "command": list(map(literal, words)),
    "environment": [{"name": "JAX_COMPILATION_CACHE_DIR", "value": literal(cache)}],
}
with open(path) as file:
    template = file.read().partition("\n")[2]
filled = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
print(string.Template(template).substitute(filled), end="")
PYTHON
}

apply() {
  local manifest
  manifest=$(render)
  kubectl apply -f - <<<"$manifest"
}

logs() {
  kubectl logs --namespace="$namespace" ${follow:+--follow} \
    --selector="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=$worker" --tail=50
}

status() {
  kubectl get jobset "$name" --namespace="$namespace"
  kubectl get pods --namespace="$namespace" --selector="jobset.sigs.k8s.io/jobset-name=$name" --output=wide
}

stop() {
  kubectl patch jobset "$name" --namespace="$namespace" --type=merge --patch='{"spec":{"suspend":true}}'
}

delete() {
  kubectl delete jobset "$name" --namespace="$namespace"
}

take_action "apply render logs status stop delete" "$@"
name='' namespace=default image='' accelerator='' topology='' chips_per_host=4
max_restarts=100 service_account=default spot='' worker=0 follow=''
parse_options "name namespace image accelerator topology chips_per_host max_restarts service_account worker" \
  "spot follow" "${@:2}"
require name
case $action in
  apply | render)
    require image accelerator topology
    require_number chips_per_host max_restarts
    [[ $topology =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "--topology '$topology' is not of the form 4x8"
    require_command
    require_bucket
    keep_compiled_programs
    ;;
esac
"$action"
