#!/usr/bin/env bash
# Start N processes of main.py on this machine as one program, to rehearse a run on a cluster.
#
#   launch/local_multi.sh 2 -- --config=configs/an4.py --workdir=runs/an4
#
# Each process writes its own log, LOGS/process-K.log (default: LOGS=logs/local-TIME); the terminal shows all of them, each line
# with its process. If one process fails, the others end too. Ctrl-C, SIGTERM and the closing of the terminal are passed on:
# the processes write a checkpoint and end; a second signal ends them at once. The exit code is that of the first process
# that failed, or 0.
# The GPUs of the machine (or those in CUDA_VISIBLE_DEVICES) are divided evenly; with JAX_PLATFORMS=cpu, or without GPUs, each
# process has the CPU devices that XLA_FLAGS gives it.
set -euo pipefail

LEAVE_S=${LEAVE_S:-75} # within 60 s the others notice a lost process themselves and name it; after this, they are killed

usage() {
  echo "error: $1" >&2
  echo "usage: launch/local_multi.sh N -- --config=configs/an4.py --workdir=runs/an4   (any flags of main.py)" >&2
  exit 2
}

[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || usage "'${1:-}' is not a number of processes"
processes=$1
shift
[ "${1:-}" = "--" ] && shift
[ $# -gt 0 ] || usage "flags of main.py are missing"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$(command -v "$python")" ] || usage "$python does not exist: run make install, or set PYTHON=... to another interpreter"
if [ "${JAX_PLATFORMS:-}" = cpu ]; then
  visible=''
else
  visible=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | grep -x '[0-9]*' | paste -sd, || true)}
fi
IFS=, read -ra gpus <<< "$visible"
[ $((${#gpus[@]} % processes)) = 0 ] || usage "$processes processes cannot share ${#gpus[@]} GPUs evenly: choose a divisor, or set JAX_PLATFORMS=cpu"
logs=${LOGS:-logs/local-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$logs"
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export DS2_COORDINATOR=127.0.0.1:$port DS2_NUM_PROCESSES=$processes DS2_EXPECT_PROCESSES=$processes
export PYTHONUNBUFFERED=1 TQDM_MININTERVAL=${TQDM_MININTERVAL:-10}
[ ${#gpus[@]} = 0 ] || export DS2_EXPECT_DEVICES=${#gpus[@]}

# Run one process. Its process id and exit code go to files, because a pipeline hides them.
start() {
  local k=$1 share=$((${#gpus[@]} / processes)) IFS=,
  shift
  [ "$share" = 0 ] || export CUDA_VISIBLE_DEVICES="${gpus[*]:k*share:share}"
  exec 3>&2 2> /dev/null # the process writes to 3; on 2, bash would report in its log that it was killed
  # shellcheck disable=SC2016  # $$ and "$@" are the inner shell's
  DS2_PROCESS_ID=$k sh -c 'echo $$ > "$0"; exec "$@"' "$run/pid-$k" "$python" "$root/main.py" "$@" 2>&3 3>&- || echo $? > "$run/code-$k"
  [ -e "$run/code-$k" ] || echo 0 > "$run/code-$k"
}

# Prefix lines with the process number unless they have it; each state of a progress bar becomes a line. In Python, because
# Debian's awk buffers lines. It reads on when the terminal is gone, because the process would fail otherwise.
label() {
  "$python" -c '
import contextlib, os, re, sys
mark, rest, data = sys.argv[1].encode(), b"", b"-"
while data:
    data = os.read(0, 1 << 16)
    *lines, rest = re.split(rb"[\r\n]+", rest + data) if data else (rest, b"")
    for line in filter(bytes.strip, lines):
        with contextlib.suppress(OSError):
            os.write(1, line + b"\n" if line.startswith(mark) else mark + b" " + line + b"\n")
' "[$1/$processes]"
}

pass_on() {
  local k
  for ((k = 0; k < processes; k++)); do
    [ -e "$run/code-$k" ] || kill "-$1" "$(cat "$run/pid-$k")" 2> /dev/null || true
  done
}

trap 'pass_on INT' INT
trap 'pass_on TERM' TERM HUP # HUP: the terminal was closed
set -m # each pipeline is its own process group, so only this script receives Ctrl-C
for ((k = 0; k < processes; k++)); do
  start "$k" "$@" 2>&1 | tee "$logs/process-$k.log" | label "$k" &
done
set +m
echo "$processes processes; logs: $logs/process-*.log"

failed='' code=0 deadline=0 ended=0
while [ "$ended" -lt "$processes" ]; do
  sleep 0.2 || true # a signal ends it early
  ended=0
  for ((k = 0; k < processes; k++)); do
    [ -s "$run/code-$k" ] || continue
    ended=$((ended + 1))
    if [ -z "$failed" ] && [ "$(cat "$run/code-$k")" != 0 ]; then
      failed=$k code=$(cat "$run/code-$k") deadline=$((SECONDS + LEAVE_S))
    fi
  done
  if [ -n "$failed" ] && [ "$ended" -lt "$processes" ] && [ "$SECONDS" -ge "$deadline" ]; then
    pass_on KILL
  fi
done
wait
[ -z "$failed" ] || echo "process $failed ended with code $code: see $logs/process-$failed.log" >&2
exit "$code"
