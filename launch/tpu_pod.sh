#!/usr/bin/env bash
# Train on a Cloud TPU slice of several machines: each step is one command for all machines.
#
#   export TPU=ds2 ZONE=us-west4-a TYPE=v5litepod-16 BUCKET=gs://my-bucket/ds2
#   launch/tpu_pod.sh create                                   create a slice (SPOT=1: cheaper, may be preempted)
#   launch/tpu_pod.sh setup                                    copy the last commit, make install ACCELERATOR=tpu
#   launch/tpu_pod.sh upload data/librispeech                  upload a folder to BUCKET/data/librispeech
#   launch/tpu_pod.sh train --config=configs/librispeech.py:16 --workdir=/bucket/runs/librispeech \
#     --config.data.train=/bucket/data/librispeech/train.jsonl --config.data.dev=/bucket/data/librispeech/dev-clean.jsonl \
#     --config.data.test=/bucket/data/librispeech/test-clean.jsonl
#   launch/tpu_pod.sh list                                     list slices, their state, and what runs on the machines
#   launch/tpu_pod.sh logs [K]                                 follow the log of machine K (0)
#   launch/tpu_pod.sh stop                                     stop training after a checkpoint; `train` resumes
#   launch/tpu_pod.sh fetch runs/librispeech                   download BUCKET/runs/librispeech
#   launch/tpu_pod.sh delete
#
# The bucket is mounted at /bucket on each machine. Training is a systemd unit, ds2, which keeps running when you log out and is
# restarted if it ends with exit code 75 (for instance, another machine was lost). JAX finds the other machines by itself.
# After a spot slice was preempted, run create, setup and train again; the run continues from its last checkpoint.
# SOFTWARE is the runtime version of the machines (default: v2-alpha-tpuv5-lite, for v5e). Project and account are gcloud's.
set -euo pipefail

TPU=${TPU:-ds2} TYPE=${TYPE:-v5litepod-16} SOFTWARE=${SOFTWARE:-v2-alpha-tpuv5-lite} BUCKET=${BUCKET:+${BUCKET%/}}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  echo "error: $1" >&2
  echo "usage: launch/tpu_pod.sh create|setup|upload DIR|train FLAGS|list|logs [K]|stop|fetch DIR|delete" >&2
  exit 2
}

need() {
  local name
  for name in "$@"; do
    case "$name=${!name:-}" in
      "$name=") usage "$name is not set: export $name=..." ;;
      BUCKET=gs://[a-z0-9]*) ;;
      BUCKET=*) usage "BUCKET=$BUCKET is not a bucket of Google Cloud Storage: write gs://my-bucket/ds2" ;;
      TYPE=*) [[ "$TYPE" =~ ^[a-z0-9]+-[1-9][0-9]*$ ]] || usage "TYPE=$TYPE does not say how large the slice is: write v5litepod-16" ;;
    esac
  done
  command -v gcloud > /dev/null || usage "gcloud is missing: install the Google Cloud CLI"
}

vm() {
  gcloud compute tpus tpu-vm "$@" --zone="$ZONE"
}

on() {
  vm ssh "$TPU" --worker="$1" --command="$2"
}

folder() { # one folder, at the same path below the current folder and below BUCKET
  [ $# -eq 1 ] || usage "name one folder: data/librispeech"
  case "/${1%/}/" in
    *//* | */./* | */../* | /-*) usage "'$1': write the folder's path relative to the current folder and to BUCKET, without a leading /, '.' or '..': data/librispeech" ;;
  esac
}

chips() { # devices of the slice: v4 and v5p count cores, two per device; v2 and v3 also count cores, one per device
  case "$TYPE" in
    v4-* | v5p-*) echo $((${TYPE##*-} / 2)) ;;
    *) echo "${TYPE##*-}" ;;
  esac
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
  create)
    need ZONE TYPE
    vm create "$TPU" --accelerator-type="$TYPE" --version="$SOFTWARE" ${SPOT:+--spot}
    ;;
  setup)
    need ZONE BUCKET
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    [ -z "$(git -C "$root" status --porcelain)" ] || echo "warning: uncommitted changes are not copied" >&2
    git -C "$root" archive --format=tar.gz --output="$archive" HEAD
    vm scp "$archive" "$TPU:ds2.tar.gz" --worker=all
    path=${BUCKET#gs://} prefix=''
    [ "$path" = "${path%%/*}" ] || prefix=${path#*/}
    on all "set -e; mkdir -p ~/ds2; tar -xzf ~/ds2.tar.gz -C ~/ds2
      sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq gcsfuse make g++ || (curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg \
        | sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null
        echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" \
        | sudo tee /etc/apt/sources.list.d/gcsfuse.list; sudo apt-get -o DPkg::Lock::Timeout=600 update -qq; sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq gcsfuse make g++)
      mountpoint -q /bucket || (sudo mkdir -p /bucket; sudo chown \$(id -u) /bucket
        gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 ${prefix:+--only-dir=$prefix }${path%%/*} /bucket)
      command -v ~/.local/bin/uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh  # the images have older Pythons
      ~/.local/bin/uv python install 3.12
      cd ~/ds2; TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_VISIBLE_CHIPS=0 make install ACCELERATOR=tpu PYTHON=\$(~/.local/bin/uv python find 3.12)"
    ;;
  upload)
    need BUCKET
    folder "$@"
    [ -d "$1" ] || usage "there is no folder $1 in $PWD"
    gcloud storage rsync --recursive "$1" "$BUCKET/${1%/}"
    ;;
  train)
    need ZONE TYPE
    [ $# -gt 0 ] || usage "flags of main.py are missing"
    on all "cd ~/ds2; sudo systemd-run --unit=ds2 --collect --uid=\$(id -u) --working-directory=\$HOME/ds2 --setenv=HOME=\$HOME \
      --setenv=JAX_PLATFORMS=tpu,cpu --setenv=PYTHONUNBUFFERED=1 --setenv=DS2_EXPECT_DEVICES=$(chips) --property=KillMode=mixed --property=TimeoutStopSec=300 \
      --property=Restart=on-failure --property=RestartForceExitStatus=75 --property=RestartPreventExitStatus='1 2' \
      --property=SuccessExitStatus=0 --property=RestartSec=10 .venv/bin/python main.py$(printf ' %q' "$@")"
    ;;
  list)
    need ZONE
    gcloud compute tpus tpu-vm list --zone="$ZONE"
    on all "hostname; systemctl is-active ds2; true"
    ;;
  logs)
    need ZONE
    on "${1:-0}" "sudo journalctl --unit=ds2 --output=cat --follow --lines=200"
    ;;
  stop)
    need ZONE
    on all "sudo systemctl stop ds2"
    ;;
  fetch)
    need BUCKET
    folder "$@"
    mkdir -p "$1"
    gcloud storage rsync --recursive "$BUCKET/${1%/}" "$1"
    ;;
  delete)
    need ZONE
    vm delete "$TPU" --quiet
    ;;
  *) usage "'$command' is not a command" ;;
esac
