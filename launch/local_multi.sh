#!/usr/bin/env bash
# Start N processes of main.py on this machine, as one program: a rehearsal of a cluster.
#
#   launch/local_multi.sh 2 -- --config=configs/an4.py --workdir=runs/an4
#
# Each process has a log of its own, LOGS/process-K.log (LOGS=logs/local-TIME by default); the terminal shows all, each line
# with the process it is from. When one fails, the others end, too. Ctrl-C (or SIGTERM, or the end of the terminal) is
# passed on: a checkpoint follows, then the end; a second one ends at once. The exit code is that of the first process that
# failed, or 0.
# The machine's GPUs (or those of CUDA_VISIBLE_DEVICES) are shared out evenly; with JAX_PLATFORMS=cpu, and without GPUs, each
# process has the CPU devices that XLA_FLAGS gives it.
set -euo pipefail

LEAVE_S=${LEAVE_S:-75} # the others notice a lost process and name it themselves, in 60 s at most; then they are ended

usage() {
  echo "error: $1" >&2
  echo "usage: launch/local_multi.sh N -- --config=configs/an4.py --workdir=runs/an4   (any flags of main.py)" >&2
  exit 2
}

[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || usage "'${1:-}' is no number of processes"
processes=$1
shift
[ "${1:-}" = "--" ] && shift
[ $# -gt 0 ] || usage "no flags of main.py are given"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$(command -v "$python")" ] || usage "$python is missing: run make install, or name an interpreter, PYTHON=..."
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

# One process: its number and exit code go to files, since a pipeline hides them.
start() {
  local k=$1 share=$((${#gpus[@]} / processes)) IFS=,
  shift
  [ "$share" = 0 ] || export CUDA_VISIBLE_DEVICES="${gpus[*]:k*share:share}"
  exec 3>&2 2> /dev/null # 3 is the process's; on 2, bash would write the line below into its log where it is killed
  # shellcheck disable=SC2016  # $$ and "$@" are the inner shell's
  DS2_PROCESS_ID=$k sh -c 'echo $$ > "$0"; exec "$@"' "$run/pid-$k" "$python" "$root/main.py" "$@" 2>&3 3>&- || echo $? > "$run/code-$k"
  [ -e "$run/code-$k" ] || echo 0 > "$run/code-$k"
}

# Put the process's number before lines that lack it; a bar's states become lines. In Python, since Debian's awk holds lines
# back; and it reads on when the terminal is gone, since the process would fail otherwise.
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
set -m # each pipeline is a group of its own: Ctrl-C comes to this script alone
for ((k = 0; k < processes; k++)); do
  start "$k" "$@" 2>&1 | tee "$logs/process-$k.log" | label "$k" &
done
set +m
echo "$processes processes; their logs: $logs/process-*.log"

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
