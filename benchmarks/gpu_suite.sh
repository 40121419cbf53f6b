#!/usr/bin/env bash
# Build, test, sanitise and time everything on a machine with a GPU, without network, by the python that is there.
#
#   benchmarks/gpu_suite.sh [SLICE...]      the slices named, in the order below, all of them without arguments; the extension is
#                                           built first where it is missing or older than its sources
#
# Every slice ends within eight minutes, by a limit of its own, and one that fails does not stop the others. Together they take
# about half an hour; where a command may take ten minutes, run a few at a time:
#
#   benchmarks/gpu_suite.sh build tests sanitize
#   benchmarks/gpu_suite.sh langevin langevin_chain chain overhead
#   benchmarks/gpu_suite.sh training long_events
#   benchmarks/gpu_suite.sh ess ess_best ess_chees curves
#
#   OUT      folder for suite.json, suite.log, doctor.json and rows of results   (benchmarks/results)
#   COMMIT   commit to name in the rows, where this tree holds no .git
#   PYTHON   the interpreter, which holds torch                                  (python3)
#   GPU_SUITE_SECONDS   time to spend on each race                               (1.5)
#   GPU_SUITE_DEVICE=cpu, GPU_SUITE_TESTS=..., GPU_SUITE_ONLY=...   dry run of the script itself on a machine without a GPU: fewer
#            tests (paths), fewer benchmarks (words that pytest -k asks for besides the slice's own)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
SLICES=(build tests sanitize ceilings langevin langevin_chain chain overhead long_events training ess ess_best ess_chees curves)
for name in "$@"; do
  [[ " ${SLICES[*]} " == *" $name "* ]] || { echo "no slice $name; there are: ${SLICES[*]}" >&2; exit 2; }
done
mkdir -p "${OUT:=benchmarks/results}"
OUT=$(cd "$OUT" && pwd)
DEVICE=${GPU_SUITE_DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
PY=build/venv-system/bin/python
LOG=$OUT/suite.log
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false # torch needs the memory too
: >"$LOG"
rows=()
failed=0
asked=${*:-${SLICES[*]}}

wants() { [[ " $asked " == *" $1 "* ]]; }

slice() { # NAME SECONDS COMMAND...: run within a limit, keep the output, note how it went
  local name=$1 limit=$2 start=$SECONDS rc status
  shift 2
  printf '\n=== %s: %s\n' "$name" "$*" | tee -a "$LOG"
  timeout --signal=INT --kill-after=15 "$limit" "$@" </dev/null >>"$LOG" 2>&1
  rc=$?
  case $rc in
    0) status=ok ;;
    124 | 137) status=timeout ;;
    *) status=failed ;;
  esac
  [ "$status" = ok ] || { failed=1; tail -n 15 "$LOG"; }
  note "$name" "$status" $((SECONDS - start))
}

note() { # NAME STATUS SECONDS
  rows+=("$(printf '{"slice": "%s", "status": "%s", "seconds": %d}' "$@")")
  printf '%-14s %-8s %4d s\n' "$@"
  summary
}

summary() { # after each slice: a run that is cut off has told of those before
  local IFS=,
  printf '{"device": "%s", "seconds": %d, "slices": [%s]}\n' "$DEVICE" "$SECONDS" "${rows[*]}" >"$OUT/suite.json"
}

built() { # is the extension newer than what it is made of?
  local extension sources=(csrc setup.py CMakeLists.txt pyproject.toml)
  extension=$(find ebm_fast -maxdepth 1 -name '_C*.so' | head -n 1)
  [ -n "$extension" ] && [ -x "$PY" ] && [ -z "$(find "${sources[@]}" -newer "$extension" -type f | head -n 1)" ]
}

bench() { # NAME SECONDS FILE WORDS: one file of benchmarks, those whose names fit
  local name=$1 limit=$2 file=$3 words=$4 commit=()
  [ -n "${COMMIT:-}" ] && commit=(--commit "$COMMIT")
  [ -n "${GPU_SUITE_ONLY:-}" ] && words="(${words:-test}) and ($GPU_SUITE_ONLY)"
  slice "$name" "$limit" "$PY" -m pytest "benchmarks/$file" -k "$words" --device "$DEVICE" --seconds "${GPU_SUITE_SECONDS:-1.5}" \
    --results "$OUT" --tb=short -p no:cacheprovider --benchmark-columns=median --benchmark-disable-gc "${commit[@]}"
}

built || slice build 240 make setup VENV=system PYTHON="$PYTHON"
if wants build; then
  slice backend 60 "$PY" -c "import sys; from ebm_fast.ops.backend import why_not; sys.exit(why_not('$DEVICE') or 0)"
  slice doctor 90 sh -c "'$PY' -m ebm_fast.cli doctor && '$PY' -m ebm_fast.cli doctor --json >'$OUT/doctor.json'"
fi

if wants tests; then
  workers=()
  "$PY" -c 'import xdist' 2>/dev/null && workers=(-n "${GPU_SUITE_WORKERS:-14}" --dist loadfile)
  "$PY" -c 'import pytest_timeout' 2>/dev/null && workers+=(--timeout 100)
  # shellcheck disable=SC2086  # several test paths may be named
  slice tests 300 "$PY" -m pytest --device "$DEVICE" --only-device -rfE --tb=short "${workers[@]}" ${GPU_SUITE_TESTS:-}
fi

if wants sanitize; then
  slice cases 60 "$PY" benchmarks/sanitize_case.py --device "$DEVICE"
  for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null && [ "$DEVICE" = cuda ]; then
      slice "$tool" 200 compute-sanitizer --tool "$tool" --error-exitcode 1 "$PY" benchmarks/sanitize_case.py
    else
      note "$tool" skipped 0
    fi
  done
fi

if wants ceilings && [ "$DEVICE" = cuda ]; then
  slice ceilings 60 env PYTHONPATH="benchmarks${PYTHONPATH:+:$PYTHONPATH}" "$PY" benchmarks/ceilings_gpu.py
fi
wants langevin && bench langevin 150 bench_langevin.py ""
wants langevin_chain && bench langevin_chain 180 bench_langevin_chain.py ""
wants chain && bench chain 300 bench_chain.py "mixture or network or dense"
wants overhead && bench overhead 120 bench_overhead.py "" && bench training_ops 60 bench_training_ops.py ""
wants long_events && bench long_events 300 bench_chain.py "long_events"
wants training && bench training 420 bench_training.py ""
wants ess && bench ess 240 bench_ess.py "hmc and not best"
wants ess_best && bench ess_best 240 bench_ess.py "best"
wants ess_chees && bench ess_chees 240 bench_ess.py "chees"
wants curves && slice curves 420 "$PY" benchmarks/curves.py --device "$DEVICE" --results "$OUT" --seconds 1 \
  ${COMMIT:+--commit "$COMMIT"} chains_mixture chains_mlp

printf '\n'
results='^(P[0-9]+ |HMC|Langevin,|perturb_|draw|write|[0-9]+ steps|[a-z0-9_]+ +[0-9.e+-]+$|\[[0-9/]+\])'
grep -E "$results|[0-9]+ (passed|failed)|^FAILED|cases agree|ERROR SUMMARY|RACECHECK" "$LOG" | cut -c1-230
printf '\n'
"$PY" - "$OUT/suite.json" <<'PYTHON_END'
import json
import sys

suite = json.load(open(sys.argv[1]))
for row in suite["slices"]:
    print(f"{row['slice']:<14} {row['status']:<8} {row['seconds']:4d} s")
print(f"{'in all':<14} {'':<8} {suite['seconds']:4d} s on {suite['device']}; files in {sys.argv[1].rsplit('/', 1)[0]}")
PYTHON_END
exit $failed
