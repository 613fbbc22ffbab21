#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests, compute-sanitizer and benchmarks on a machine with an NVIDIA GPU, in about 12 minutes.
#
#   scripts/gpu.sh FOLDER_OF_WHEELS [tests] [sanitize] [bench] [load]
#
# The folder holds the wheels that the machine's python3 lacks; without a stage's name all run. A stage that fails or takes
# too long stops no other; what failed is said at the end, and is the exit status. Logs: ${OUT:-/tmp/out}. ROUNDS says how
# often every loader has its turn, and BUDGET how many seconds there are for everything.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

BUDGET=${BUDGET:-1500}
ROUNDS=${ROUNDS:-7}
LOGS=${OUT:-/tmp/out}
SITE=/tmp/site
TAIL=12 # lines of a log that are shown when its stage ends
failed=()

say() { printf '== %3d s: %s\n' "$SECONDS" "$*"; }

# run NAME LIMIT COMMAND...: with a time limit, its output in NAME.log.
run() {
  local name=$1 limit=$2 status left=$((BUDGET - SECONDS))
  shift 2
  if ((left < 5)); then
    say "$name: no time left"
    failed+=("$name (no time left)")
    return 1
  fi
  timeout --kill-after=5 $((limit < left ? limit : left)) "$@" >"$LOGS/$name.log" 2>&1
  status=$?
  if ((status == 0)); then
    say "$name: ok"
    return 0
  fi
  ((status == 124 || status == 137)) && status="$status, out of time"
  say "$name: FAILED ($status)"
  failed+=("$name ($status)")
  return 1
}

show() { tail -n "$TAIL" "$LOGS/$1.log" | cut -c1-240; }

prepare() {
  mkdir -p "$LOGS" "$SITE"
  rm -f "$LOGS"/{tests,sanitize,memcheck,racecheck,initcheck,hash,models,load,watch}.log "$LOGS"/{hash,models,load,watch}.json
  local wheels=("$1"/*.whl)
  if [[ -e ${wheels[0]} ]]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" "${wheels[@]}" ||
      { echo "error: the wheels in $1 could not be installed" >&2; exit 2; }
  fi
  export PYTHONPATH="$SITE:$PWD" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
  export PATH="$PATH:/usr/local/cuda/bin"
  SENTRY_CACHE_DIR=$(mktemp -d /tmp/sentry-kernels.XXXXXX) && export SENTRY_CACHE_DIR
  python3 - <<'PYTHON' || { echo "error: see above; put the missing wheels into the folder" >&2; exit 2; }
import importlib, sys

wanted = "numpy blake3 cryptography click pytest hypothesis cuda.core torch sentry.engine.cuda benchmarks.common".split()
missing = []
for name in wanted:
    try:
        importlib.import_module(name)
    except Exception as error:
        missing.append(f"{name}: {error}")
print("\n".join(f"missing: {line}" for line in missing), end="\n" if missing else "")
sys.exit(bool(missing))
PYTHON
}

tests() {
  SENTRY_REQUIRE_GPU=1 run tests 240 python3 -m pytest tests/engines tests/models tests/loading -q -x -p no:cacheprovider ||
    show tests
  tail -n 1 "$LOGS/tests.log" 2>/dev/null
}

# The three tools run side by side: most of their time is the host's.
sanitize() {
  run sanitize 60 python3 scripts/sanitize.py || { show sanitize; return; }
  local tool pids=() tools=(memcheck racecheck initcheck) at limit=$((BUDGET - SECONDS < 100 ? BUDGET - SECONDS : 100))
  ((limit < 5)) && { failed+=("compute-sanitizer (no time left)"); return; }
  for tool in "${tools[@]}"; do
    timeout --kill-after=5 "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python3 scripts/sanitize.py >"$LOGS/$tool.log" 2>&1 &
    pids+=($!)
  done
  for at in "${!tools[@]}"; do
    tool=${tools[at]}
    # A tool that watched nothing has found nothing either.
    if wait "${pids[at]}" && grep -q '^ok: bytes from the host' "$LOGS/$tool.log"; then
      say "$tool: $(grep -E 'SUMMARY' "$LOGS/$tool.log" | tail -n 1 | sed 's/^=* *//')"
    else
      say "$tool: FAILED"
      failed+=("$tool")
      grep -E '^=========' "$LOGS/$tool.log" | head -n "$TAIL" | cut -c1-240
      show "$tool"
    fi
  done
}

bench() {
  run hash 150 python3 benchmarks/hash.py --json "$LOGS/hash.json" || show hash
  run models 100 python3 benchmarks/models.py --json "$LOGS/models.json" || show models
}

# cuFile's compatibility mode asks udev what lies on the disk; a machine without udev gets the two lines that it reads.
describe_disk() {
  local device record
  device=$(stat -c %d "$1") || return
  record=/run/udev/data/b$((device >> 8)):$((device & 255))
  [[ -e $record ]] || { mkdir -p /run/udev/data && printf 'E:ID_FS_USAGE=filesystem\nE:ID_FS_TYPE=ext4\n' >"$record"; }
}

load() {
  run load 480 python3 benchmarks/load.py --rounds "$ROUNDS" --disk /tmp --disk-tensors 30 --json "$LOGS/load.json" || show load
  run watch 60 python3 benchmarks/watch.py --json "$LOGS/watch.json" || show watch
}

main() {
  (($#)) || { echo "usage: scripts/gpu.sh FOLDER_OF_WHEELS [tests] [sanitize] [bench] [load]" >&2; exit 2; }
  prepare "$1"
  shift
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit --format=csv,noheader
  describe_disk /tmp
  local stage stages=("$@")
  (($#)) || stages=(tests sanitize bench load)
  for stage in "${stages[@]}"; do
    case $stage in
      tests | sanitize | bench | load) "$stage" ;;
      *) echo "error: there is no stage $stage" >&2; failed+=("$stage") ;;
    esac
  done
  # The tables last: of a long output, the end is what is kept.
  for stage in hash models load watch; do
    [[ -e $LOGS/$stage.log ]] && grep -v -E ' runs$|done$| in all$|^(private|public) key' "$LOGS/$stage.log" | tail -n 60 | cut -c1-240
  done
  if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
  fi
  say "all stages passed"
}

main "$@"
