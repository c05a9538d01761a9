#!/usr/bin/env bash
# What there is to know from a GPU machine, in two calls, each of which ends by itself:
#
#   benchmarks/gpu_all.sh --stage check   [--device cuda|cpu] [--no-build] [FOLDER]
#   benchmarks/gpu_all.sh --stage measure [--device cuda|cpu] [--no-build] [FOLDER]
#
# check (at most 4 minutes): operator tests, memcheck and racecheck on small cases, three rows of each
# benchmark. What it finds is mended before measure (at most 5 minutes): all other rows, the model, and
# the remaining checks, the most valuable first, as what does not fit in the time is left out.
#
# Results go to FOLDER, else to $OUT, else to benchmarks/results. Every step has a time limit; one that
# fails does not stop the others, but the exit code is then 1.
# --device cpu tries the same without a GPU: short sizes, no memory checkers.
# --no-build takes the library that benchmarks/gpu_library.sh made; the exit code is 2 at once, with
# the reasons, where it does not fit this machine. Without it, a stage builds in place, within its time.
#
#   PYTHON                 the interpreter (python3)
#   TORCH_CUDA_ARCH_LIST   architectures to compile for (the device's own)
#   SECONDS_IN_ALL         the time limit of the stage (230 and 290)
#   GRAD_COMMIT            what to call this version where there is no git
#
# Of the wheels in .gpu/wheels those are installed, into a temporary folder, whose packages are missing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

fail() { echo "gpu_all.sh: $*" >&2; exit 2; }

stage='' device=cuda build=yes out="${OUT:-benchmarks/results}"
while (($#)); do
  case "$1" in
    --stage) stage="${2:-}"; shift ;;
    --device) device="${2:-}"; shift ;;
    --no-build) build=no ;;
    -*) fail "unknown option $1; the options are --stage check|measure, --device cuda|cpu and --no-build" ;;
    *) out="$1" ;;
  esac
  shift
done
case "$stage" in
  check) limit="${SECONDS_IN_ALL:-230}" ;;
  measure) limit="${SECONDS_IN_ALL:-290}" ;;
  *) fail "--stage must be check or measure, got '$stage'" ;;
esac
case "$device" in
  cuda | cpu) ;;
  *) fail "--device must be cuda or cpu, got '$device'" ;;
esac

mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 2
python="${PYTHON:-python3}"
failed=()
SECONDS=0
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export GRAD_COMMIT="${GRAD_COMMIT:-$(git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)}"
# Each stage has logs of its own, so that the second does not overwrite the first.
summary="$out/$stage-summary.txt" log="$out/$stage.log"
: >"$summary" >"$log"

say() { echo "$*" | tee -a "$summary"; }

# step NAME MOST RESERVED COMMAND...: run a command, its output into the log. It may take MOST seconds,
# and less where fewer are left after RESERVED seconds for the steps behind it.
step() {
  local name="$1" most="$2" left=$((limit - SECONDS - $3)) start=$SECONDS status=0 verdict
  shift 3
  ((most < left)) && left=$most
  if ((left < 5)); then
    failed+=("$name")
    say "$(printf '%-22s no time left' "$name")"
    return 1
  fi
  printf '\n== %s: %s\n' "$name" "$*" >>"$log"
  timeout --kill-after=5 "$left" "$@" >>"$log" 2>&1 || status=$?
  case $status in
    0) verdict=ok ;;
    124 | 137) verdict="over its limit of $left s" ;;
    *) verdict="failed with code $status" ;;
  esac
  ((status == 0)) || failed+=("$name")
  say "$(printf '%-22s %4d s  %s' "$name" $((SECONDS - start)) "$verdict")"
  return $status
}

if [[ $build == no ]]; then
  "$python" benchmarks/gpu_library.py check --device "$device" 2>&1 | tee -a "$summary"
  ((PIPESTATUS[0] == 0)) || exit 2
  # Beside the sources, where every process of the tests looks first, whatever its import path.
  cp .gpu/lib/grad/_C.* grad/ || exit 2
fi

mapfile -t wheels < <("$python" benchmarks/gpu_library.py missing)
if ((${#wheels[@]})); then
  site="$(mktemp -d)"
  trap 'rm -rf "$site"' EXIT
  step wheels 60 150 "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "${wheels[@]}"
  export PYTHONPATH="$PYTHONPATH:$site"
fi

# The machine, and what is missing on it.
"$python" - "$device" >"$out/machine.txt" 2>&1 <<'END' || failed+=("machine")
import os, platform, sys
import torch
print(f"commit {os.environ['GRAD_COMMIT']}")
print(f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.platform()}")
if sys.argv[1] == "cuda":
    p = torch.cuda.get_device_properties(0)
    print(f"{p.name}, {p.multi_processor_count} multiprocessors, {p.total_memory >> 30} GiB")
END
if [[ $device == cuda ]]; then
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu --format=csv \
    >>"$out/machine.txt" 2>&1
fi
tee -a "$summary" <"$out/machine.txt"

if [[ $build == yes ]]; then
  if [[ $device == cuda ]]; then
    export GRAD_CUDA=1 GRAD_PTXAS=1 TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$("$python" -c \
      'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null || echo 9.0)}"
  else
    export GRAD_CUDA=0
  fi
  step build 150 80 "$python" setup.py build_ext --inplace
fi

# Without torch's cache each tensor is an allocation of its own, so that a read past its end is seen.
# The filter is the namespace of the kernels; initcheck has to see everyone's writes.
check() {
  local tool="$1" most="$2" reserved="$3"
  shift 3
  if [[ $device == cpu ]]; then
    [[ $tool == memcheck ]] && step sanitize 60 "$reserved" "$python" benchmarks/sanitize.py --device cpu
    return
  fi
  if ! command -v compute-sanitizer >/dev/null; then
    failed+=("$tool")
    say "$tool: compute-sanitizer is not on the PATH"
    return
  fi
  step "$tool" "$most" "$reserved" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 60 "$@" \
    "$python" benchmarks/sanitize.py --device cuda
}
PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"

# What results/emulated.md predicts, as the device counts it: bytes, passes of shared memory, occupancy.
counters() {
  if ! command -v ncu >/dev/null; then
    say "ncu is not on the PATH: no counters"
    return
  fi
  step ncu "$1" "$2" ncu --kernel-name 'regex:(project|interpolate|refine)_' --launch-count 30 \
    --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy --csv --log-file "$out/ncu.csv" \
    "$python" benchmarks/bench_grid.py --device cuda --quick --no-compile --seconds 0.01
}

# A benchmark and its table; rows that were measured are kept also where the time is over.
bench() {
  local name="$1" most="$2" reserved="$3"
  shift 3
  step "$name" "$most" "$reserved" "$python" "benchmarks/$name.py" --device "$device" \
    --json "$out/$stage-${name#bench_}.json" "$@"
}

# A case is three rows: forward, backward, both. One that has begun when the seconds are over is
# finished, and the first always begins.
if [[ $stage == check ]]; then
  mapfile -t tests < <(grep -rlE '^from grad\.ops' --include='test_*.py' tests | grep -v test_build.py | sort)
  # Those of the CPU run anywhere, and need no minutes of a GPU.
  marks="cuda and not slow" most=110
  [[ $device == cpu ]] && marks="not cuda and not slow" most=130
  step tests "$most" 100 "$python" -m pytest -q --maxfail=20 -m "$marks" -p no:cacheprovider "${tests[@]}"
  check memcheck 50 75 --kernel-name kns=4grad --padding 32 --report-api-errors no
  check racecheck 50 45 --kernel-name kns=4grad
  bench bench_grid 40 45 --quick --seconds 0.01
  bench bench_refine 30 25 --quick --seconds 0.01
  bench bench_model 40 0 --batch-sizes 1 --precisions float32 --files 8
else
  if [[ $device == cpu ]]; then
    bench bench_grid 90 180 --quick
    bench bench_refine 70 110 --quick
    bench bench_model 110 0 --batch-sizes 1 --precisions float32 --files 48
  else
    # Half of what is left for lookups, which are most of the rows; compiling a case can take 15 seconds.
    bench bench_grid 140 130 --seconds 120
    bench bench_refine 60 75 --seconds 45
    bench bench_model 75 0 --batch-sizes 1,4,64
    check synccheck 40 0 --kernel-name kns=4grad
    check initcheck 40 0
    counters 40 0
  fi
fi

if ((${#failed[@]})); then
  say "$stage: after $SECONDS s: FAILED: ${failed[*]}; the log is $log"
  exit 1
fi
say "$stage: after $SECONDS s: everything passed; results in $out"
