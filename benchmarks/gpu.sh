#!/usr/bin/env bash
# Everything that wants a GPU, in calls of at most LIMIT seconds: call it again until it says that all is done.
#
#   OUT=results benchmarks/gpu.sh                  on a CUDA machine with the whole environment
#   PACK=.whl/pack.tar.xz OUT=results benchmarks/gpu.sh   without a network: see benchmarks/pack.py
#   SIZE=miniature DEVICE=cpu OUT=results benchmarks/gpu.sh    does it run? (a few minutes on two cores)
#
# It runs the benchmarks and the tests that need CUDA, what is quick and wanted most before what is slow, then a
# million people, the tiny demo by all GPUs together, and the experiment of the paper's size on synthetic people:
# `wild` and `lab` people together, exact correspondences and a predictor's, three rounds, and what they are
# compared with. What is done is kept in STATE, and the next call goes on with what is not. OUT gets what is worth
# keeping: every number when it is known, and at the end of a call figures and the Markdown for docs/results.md too.
# SKIP names steps that are not wanted, or that another machine has done.
# Exit code: 0 all is done; 75 call again; 1 a step of the experiment failed, or all is done but what could only
# be tried; 2 there is no such device.
set -uo pipefail
cd "$(dirname "$0")/.."
SIZE="${SIZE:-full}" LIMIT="${LIMIT:-440}" VENV="${VENV:-.venv}"
# Of LIMIT: from asking a step to stop until it is killed, and for collecting at the end of a call.
GRACE="${GRACE:-10}" COLLECT=20
# A CPU would work on the full size for days: it is not what anyone gets by accident.
if [ "$SIZE" = miniature ]; then DEVICE="${DEVICE:-auto}"; else DEVICE="${DEVICE:-cuda}"; fi
if [ -z "${PYTHON:-}" ]; then
  if [ -x "$VENV/bin/python" ]; then PYTHON="$VENV/bin/python"; else PYTHON=python3; fi
fi
STATE="${STATE:-runs/gpu-$SIZE}" OUT="${OUT:-$STATE/out}" WORKERS="${WORKERS:-$(nproc)}"
mkdir -p "$STATE/done" "$STATE/results" "$OUT"
STATE="$(cd "$STATE" && pwd)"
for name in ${SKIP:-}; do touch "$STATE/done/$name"; done
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${PACK:-}" ]; then
  if [ ! -e "$STATE/done/unpacked" ]; then
    "$PYTHON" -m tarfile -e "$PACK" "$STATE/pack" && touch "$STATE/done/unpacked"
  fi
  export PYTHONPATH="$STATE/pack/site:$PYTHONPATH" DEFORMLEARN_CACHE="$STATE/pack/cache" ANNY_CACHE_DIR="$STATE/pack/anny"
fi
if [ "${DEVICE#cuda}" != "$DEVICE" ] && ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  echo "error: $PYTHON sees no CUDA device; to see whether all runs, give SIZE=miniature DEVICE=cpu" >&2
  exit 2
fi

if [ "$SIZE" = miniature ]; then
  PEOPLE=12 TEST=6
  SYNTH=(--size 64 --points 40)
  RUN=(--preset tiny --rounds 2 --lifter.steps 50 --regressor.batch 8 --regressor.head-steps 10)
  DEMO=(--data.train 12 --data.val 0 --data.test 6 --data.size 64 --run.rounds 1 --run.lifter.steps 30
    --run.regressor.batch 8 --run.regressor.head-steps 10)
  BENCH=(--miniature)
  # Several in a process, for starting it is most of the work; `accuracy` asks nothing of a GPU, but must run too.
  FIRST=("110 machine start registration compiled lifter training head"
    "110 prediction evaluation skinning synthetic scaling" "110 storage pictures accuracy")
  SECOND=() THIRD=()
else
  PEOPLE="${PEOPLE:-25000}" TEST="${TEST:-2000}" # of each kind, so 50,000 to train on
  SYNTH=(--size 224)
  # From random weights, unless the ImageNet ones are in the cache; the paper fine-tuned 30 epochs a round.
  RUN=(--preset gpu --rounds 3 --lifter.steps 20000 --regressor.epochs "${EPOCHS:-2}")
  DEMO=()
  BENCH=()
  # Each with the seconds that must be left to begin it. Light ones stand together; `scaling` measures processes
  # of its own, which nothing may stand beside; a step that is cut off begins anew, so what may compile for
  # minutes is alone.
  FIRST=("40 machine skinning" "60 scaling" "50 prediction" "100 training" "90 synthetic")
  SECOND=("80 registration")
  THIRD=("60 lifter head evaluation storage pictures" "90 compiled")
fi
# As many processes as there are GPUs, by nccl; on CPU two, by gloo.
if [ "$DEVICE" = cpu ]; then TEAM=2; else TEAM=gpu; fi

# What was measured until now and the log, in no time: whoever ends this call early shall have them.
gather() {
  "$PYTHON" benchmarks/gather.py "$STATE/results" "$OUT" >> "$STATE/log.txt" 2>&1 || echo "gathering failed: see $STATE/log.txt"
  tail -c 100000 "$STATE/log.txt" > "$OUT/log.txt"
}

# All that is worth keeping, which takes seconds.
collected=no waiting=
collect() {
  gather
  timeout -s KILL "$COLLECT" "$PYTHON" benchmarks/experiment.py collect "$STATE" "$OUT" >> "$STATE/log.txt" 2>&1 ||
    echo "collecting failed: see $STATE/log.txt"
  tail -c 100000 "$STATE/log.txt" > "$OUT/log.txt"
  collected=yes
}

# step NAME LEAST COMMAND...: unless it is done already; stopped in time, it is gone on with in the next call.
# "try-" and "bench-" steps may fail without ending what follows. Those named "try-" cannot be gone on with: with
# fewer than LEAST seconds left they wait for the next call, and what can be gone on with fills this one; one that
# began with its call and did not end in it is given up.
step() {
  local name="$1" least="$2" code=0 begin=$SECONDS left=$((LIMIT - SECONDS - GRACE - COLLECT))
  shift 2
  [ -e "$STATE/done/$name" ] && return
  [ "$left" -ge 10 ] || call_again "$name"
  if [ "$begin" -ge 30 ] && [ "$left" -lt "$least" ]; then
    waiting="${waiting:-$name}"
    return
  fi
  echo "== $name (at $begin s)" | tee -a "$STATE/log.txt"
  collected=no
  timeout -s INT -k "$GRACE" "$left" "$@" >> "$STATE/log.txt" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    touch "$STATE/done/$name"
  elif [ "$code" = 124 ] || [ "$code" = 137 ]; then
    [ "$name" != "${name#try-}" ] && [ "$begin" -lt 30 ] || call_again "$name"
    echo "given up: $name does not end in $LIMIT s" | tee "$STATE/done/$name"
  elif [ "$name" != "${name#try-}" ] || [ "$name" != "${name#bench-}" ]; then
    echo "failed: $name (exit code $code): $(tail -n 1 "$STATE/log.txt")" | tee "$STATE/done/$name"
  else
    collect
    echo "failed: $name (exit code $code)"
    tail -n 20 "$STATE/log.txt"
    exit 1
  fi
  # A run's figures and errors are worth the seconds; of other steps there is nothing but what was measured.
  case "$name" in run-* | baselines-*) collect ;; *) gather ;; esac
}

call_again() {
  [ "$collected" = yes ] || collect
  echo "stopped in $1 after $SECONDS s; call again"
  exit 75
}

bench() {
  local name="$1" least="$2"
  shift 2
  step "$name" "$least" "$PYTHON" benchmarks/run.py "${@/#/--only=}" --device "$DEVICE" --out "$STATE/results" \
    --gather "$OUT" --data "$STATE/bench" ${BENCH[@]+"${BENCH[@]}"}
}

# Several groups in a process: "LEAST GROUP GROUP ...".
benches() {
  local groups least
  for groups in "$@"; do
    read -r least groups <<< "$groups"
    # shellcheck disable=SC2086 # several groups are several words
    bench "try-bench-${groups%% *}" "$least" $groups
  done
}

benches "${FIRST[@]}"
# Of the files with tests that are skipped elsewhere; others may need packages that are not here.
# shellcheck disable=SC2046
step try-tests 60 "$PYTHON" -m pytest -q -rs -k cuda $(grep -l "needs a CUDA device" tests/test_*.py)
benches ${SECOND[@]+"${SECOND[@]}"}
bench bench-million 10 million
benches ${THIRD[@]+"${THIRD[@]}"}
step try-team 60 "$PYTHON" -m torch.distributed.run --nproc-per-node "$TEAM" --rdzv-backend c10d --rdzv-endpoint localhost:0 \
  -m deformlearn demo --preset tiny --out "$STATE/team" --run.device "$DEVICE" ${DEMO[@]+"${DEMO[@]}"}
for quality in exact predicted; do
  for people in wild lab; do
    step "people-$people-$quality" 10 "$PYTHON" -m deformlearn synth --preset gpu --people "$people" --quality "$quality" --out "$STATE/$people-$quality" \
      --train "$PEOPLE" --val 0 --test "$TEST" --workers "$WORKERS" "${SYNTH[@]}"
  done
  step "mix-$quality" 10 "$PYTHON" benchmarks/experiment.py mix "$STATE/$quality" "$STATE/wild-$quality" "$STATE/lab-$quality"
  step "run-$quality" 10 "$PYTHON" -m deformlearn run "$STATE/$quality" --out "$STATE/run-$quality" --device "$DEVICE" --workers "$WORKERS" "${RUN[@]}"
done
for quality in exact predicted; do
  step "baselines-$quality" 10 "$PYTHON" -m deformlearn run "$STATE/$quality" --out "$STATE/run-$quality" --device "$DEVICE" --workers "$WORKERS" "${RUN[@]}" --baselines
done
[ -z "$waiting" ] || call_again "$waiting"
collect
failures="$(cat "$STATE"/done/*)"
if [ -n "$failures" ]; then
  echo "all is done, but for what follows: $OUT"
  echo "$failures"
  exit 1
fi
echo "all is done: $OUT"
