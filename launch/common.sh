# Sourced by the launch scripts: options, quoting, and what exit statuses mean.
# Usage: source launch/common.sh

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
words=()  # what stands after --: the command to run
pass=()   # what --pass=OPTION hands on

fail() {
  echo "launch/${0##*/}: $*" >&2
  exit 2
}

exec 3>&2
say() {
  echo "launch/${0##*/}: $*" >&3 # also where bash's own lines on killed processes are sent away
}

# The comment at the top of the script.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$launch/${0##*/}"
}

# take_action "create delete" "$@": the first word, which is one of these, in action.
take_action() {
  case ${2:---help} in
    --help | -h) usage && exit ;;
  esac
  [[ " $1 " == *" $2 "* ]] || fail "there is no action '$2'; there are: ${1// /, }"
  # shellcheck disable=SC2034
  action=$2
}

# parse_options "zone project" "spot queued" "$@": sets a variable for each option that has a value (--zone Z, --zone=Z)
# and for each that has none (--spot), and puts what follows -- into words. Its own variables have a name that no option
# has.
parse_options() {
  local _valued=" $1 " _flags=" $2 " _name
  shift 2
  while (($#)); do
    _name=${1%%=*} _name=${_name#--}
    case $1 in
      --help | -h) usage && exit ;;
      --) shift && words=("$@") && return ;;
      --pass=*) pass+=("${1#*=}") && shift ;;
      --*=*)
        [[ $_valued == *" $_name "* ]] || fail "there is no option --$_name with a value; see --help"
        printf -v "$_name" %s "${1#*=}" && shift
        ;;
      --*)
        if [[ $_flags == *" $_name "* ]]; then
          printf -v "$_name" yes && shift
        elif [[ $_valued == *" $_name "* ]]; then
          [[ ${2:---} != --* ]] || fail "--$_name has no value: write --$_name VALUE"
          printf -v "$_name" %s "$2" && shift 2
        else
          fail "there is no option $1; see --help"
        fi
        ;;
      *) fail "unexpected word '$1': the command to run goes after --" ;;
    esac
  done
}

# require zone project: names the first of these options that was not given.
require() {
  local _name
  for _name; do
    [ -n "${!_name}" ] || fail "--$_name is missing; see --help"
  done
}

require_command() {
  ((${#words[@]})) || fail "the command to run is missing: end with -- marble train --config C --workdir W"
}

require_number() {
  local _name
  for _name; do
    [[ ${!_name} =~ ^[0-9]+$ ]] || fail "--$_name '${!_name}' is not a whole number"
    printf -v "$_name" %d "$((10#${!_name}))" # 08 would be no number to bash
  done
}

# The words as one line that a shell, here or on another machine, reads back as the same words: also a plain sh, which
# does not know what bash's own %q writes.
quoted() {
  local word quote="'" escaped="'\\''"
  for word; do printf "'%s' " "${word//$quote/$escaped}"; done
}

# on_machine FOLDER "status": the line that runs launch/worker.sh of the checkout there with these words.
on_machine() {
  echo "if [ -f $1/launch/worker.sh ]; then bash $1/launch/worker.sh $2; else echo \"\$HOSTNAME: not set up\"; exit 1; fi"
}

# The value of --workdir among the words, or nothing.
workdir_of() {
  local word previous=''
  for word; do
    if [[ $word == --workdir=* ]]; then
      echo "${word#*=}" && return
    elif [ "$previous" = --workdir ]; then
      echo "$word" && return
    fi
    previous=$word
  done
}

# A folder for log files, on this file system: beside the run, or here, named as the run in its bucket.
logs_folder() {
  local workdir
  workdir=$(workdir_of "${words[@]}")
  workdir=${workdir%/}
  case $workdir in
    '') echo logs ;;
    *://*) echo "logs/${workdir##*/}" ;;
    *) echo "$workdir/logs" ;;
  esac
}

# The run's machines go and come: what one has compiled, the next finds in the bucket.
keep_compiled_programs() {
  local workdir
  workdir=$(workdir_of "${words[@]}")
  if [[ $workdir == gs://* ]]; then
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${workdir%/}/xla_cache}
  fi
}

# What a machine that goes takes with it.
require_bucket() {
  local workdir
  workdir=$(workdir_of "${words[@]}")
  [[ $workdir == gs://* ]] || fail "--workdir '$workdir' would go with the machines: give a bucket, gs://BUCKET/FOLDER"
}

# Whether the same command goes on after this exit status: 75 (saved, or a peer was lost), or a signal (128 + number).
goes_on() {
  (($1 == 75 || ($1 > 128 && $1 <= 192)))
}

# How a process ended, from its exit status.
ended() {
  if (($1 > 128 && $1 <= 192)); then
    echo "was killed by SIG$(kill -l "$(($1 - 128))") ($1)"
  else
    echo "ended with exit status $1"
  fi
}

# wait_for PID: its exit status, in status. The caller's trap sets signalled, for a signal ends bash's wait early.
# shellcheck disable=SC2034
wait_for() {
  signalled='' status=0
  wait "$1" || status=$?
  while [ -n "$signalled" ]; do
    signalled=''
    local again=0
    wait "$1" || again=$?
    ((again == 127)) || status=$again # 127: it had been waited for when the signal came
  done
}

# The checkout as it is, without what git does not know, as a .tar.gz at this path.
pack_checkout() {
  local commit
  # With an index of its own, or two of these at once would meet at git's lock.
  commit=$(cd "$launch/.." && cp "$(git rev-parse --git-path index)" "$1.index" &&
    GIT_INDEX_FILE=$1.index git stash create) || fail "$launch/.. is no git checkout: get one with git clone"
  rm "$1.index"
  (cd "$launch/.." && git archive --format=tar.gz --output="$1" "${commit:-HEAD}")
}

# watch_over SECONDS "$@" of the script: keeps a slice at work until its command is done, has failed or was stopped,
# whatever becomes of the machines. The script gives it the functions machines (prints ready, waiting or gone), delete,
# stop and on_workers.
watch_over() {
  local poll=$1 itself=$launch/${0##*/} said
  shift 2
  while true; do
    case $(machines) in
      gone)
        say "no machines: making them"
        delete >/dev/null 2>&1 || true
        # A process of its own, for in a condition bash goes on after errors.
        bash "$itself" up "$@" || say "that did not work; trying again in $poll s"
        ;;
      ready)
        said=$(on_workers status) || true
        case $said in
          *": failed"*)
            echo "$said"
            say "a worker has failed: not started again; stopping the others"
            stop || true
            exit 1
            ;;
          *": gave up"* | *": stopped"*) echo "$said" && exit 75 ;;
          *": installing"*) ;;
          *": not set up"*) bash "$itself" setup "$@" && bash "$itself" run "$@" || true ;;
          *": interrupted"* | *": not started"*) bash "$itself" run "$@" || true ;;
          *": running"*) ;;
          *": done"*) echo "$said" && exit ;;
          *) say "the machines do not say what they do; asking again in $poll s" ;;
        esac
        ;;
    esac
    sleep "$poll"
  done
}
