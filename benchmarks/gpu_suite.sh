#!/usr/bin/env bash
# Build, test, sanitise and time everything on a machine with a GPU, without network, by the python that is there, in under
# ten minutes. Every slice has its own time limit, and one that fails does not stop the others.
#
#   OUT      folder for suite.json, suite.log, doctor.json and rows of results   (benchmarks/results)
#   COMMIT   commit to name in the rows, where this tree holds no .git
#   PYTHON   the interpreter, which holds torch                                  (python3)
#   GPU_SUITE_DEVICE=cpu, GPU_SUITE_TESTS=...   dry run of the script itself on a machine without a GPU
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
mkdir -p "${OUT:=benchmarks/results}"
OUT=$(cd "$OUT" && pwd)
DEVICE=${GPU_SUITE_DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
PY=build/venv-system/bin/python
LOG=$OUT/suite.log
export PYTHONUNBUFFERED=1
: >"$LOG"
rows=()
failed=0

slice() { # NAME SECONDS COMMAND...: run within a limit, keep the output, note how it went
  local name=$1 limit=$2 start=$SECONDS rc status
  shift 2
  printf '\n=== %s: %s\n' "$name" "$*" | tee -a "$LOG"
  timeout --kill-after=10 "$limit" "$@" </dev/null >>"$LOG" 2>&1
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
  printf '%-12s %-8s %4d s\n' "$@"
}

slice build 90 make setup VENV=system PYTHON="$PYTHON"
slice backend 20 "$PY" -c "import sys; from ebm_fast.ops.backend import why_not; sys.exit(why_not('$DEVICE') or 0)"
slice doctor 40 sh -c "'$PY' -m ebm_fast.cli doctor && '$PY' -m ebm_fast.cli doctor --json >'$OUT/doctor.json'"

workers=()
"$PY" -c 'import xdist' 2>/dev/null && workers=(-n 8 --dist loadfile)
# shellcheck disable=SC2086  # several test paths may be named
slice tests 200 "$PY" -m pytest --device "$DEVICE" "${workers[@]}" ${GPU_SUITE_TESTS:-}

slice cases 30 "$PY" benchmarks/sanitize_case.py --device "$DEVICE"
if command -v compute-sanitizer >/dev/null && [ "$DEVICE" = cuda ]; then
  for tool in memcheck racecheck; do
    slice "$tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 1 "$PY" benchmarks/sanitize_case.py
  done
else
  note memcheck skipped 0
fi

commit=()
[ -n "${COMMIT:-}" ] && commit=(--commit "$COMMIT")
slice benchmarks 120 "$PY" -m pytest benchmarks --device "$DEVICE" --seconds "${GPU_SUITE_SECONDS:-3}" --results "$OUT" "${commit[@]}"

(
  IFS=,
  printf '{"device": "%s", "seconds": %d, "slices": [%s]}\n' "$DEVICE" "$SECONDS" "${rows[*]}"
) >"$OUT/suite.json"

printf '\n'
grep -E '^(P1|P10|sample|[0-9]+ steps)|[0-9]+ (passed|failed)|cases agree|ERROR SUMMARY' "$LOG"
printf '\n'
"$PY" - "$OUT/suite.json" <<'PYTHON_END'
import json
import sys

suite = json.load(open(sys.argv[1]))
for row in suite["slices"]:
    print(f"{row['slice']:<12} {row['status']:<8} {row['seconds']:4d} s")
print(f"{'in all':<12} {'':<8} {suite['seconds']:4d} s on {suite['device']}; files in {sys.argv[1].rsplit('/', 1)[0]}")
PYTHON_END
exit $failed
