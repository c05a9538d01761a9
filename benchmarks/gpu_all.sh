#!/usr/bin/env bash
# Everything there is to know from a GPU machine in one call of less than ten minutes: builds the
# extension in place, then operator tests, memory checkers and all benchmarks.
#
#   benchmarks/gpu_all.sh [--device cuda|cpu] [--no-build] [FOLDER]
#
# Results go to FOLDER, else to $OUT, else to benchmarks/results. Every step has a time limit, so
# the whole ends; a step that fails does not stop the others, but the exit code is then 1.
# --device cpu tries the same without a GPU: short sizes, no memory checkers.
# --no-build takes the library that is there.
#
#   PYTHON                 the interpreter (python3)
#   TORCH_CUDA_ARCH_LIST   architectures to compile for (the device's own)
#   SECONDS_IN_ALL         the time limit of everything (580)
#   GRAD_COMMIT            what to call this version where there is no git
#
# Wheels in the folder .whl, if there is one, come first on the path: for machines without network.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

device=cuda build=yes out="${OUT:-benchmarks/results}"
while (($#)); do
  case "$1" in
    --device) device="${2:-}"; shift ;;
    --no-build) build=no ;;
    -*) echo "gpu_all.sh: unknown option $1; the options are --device cuda|cpu and --no-build" >&2; exit 2 ;;
    *) out="$1" ;;
  esac
  shift
done
case "$device" in
  cuda | cpu) ;;
  *) echo "gpu_all.sh: --device must be cuda or cpu, got '$device'" >&2; exit 2 ;;
esac

mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 2
python="${PYTHON:-python3}"
limit="${SECONDS_IN_ALL:-580}"
failed=()
SECONDS=0
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export GRAD_COMMIT="${GRAD_COMMIT:-$(git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)}"
: >"$out/summary.txt" >"$out/tests.log" >"$out/sanitizer.log" >"$out/tables.txt"

say() { echo "$*" | tee -a "$out/summary.txt"; }

# step NAME LOG MOST RESERVED COMMAND...: run a command, its output into LOG. It may take MOST seconds,
# and less where fewer are left after RESERVED seconds for the steps behind it.
step() {
  local name="$1" log="$out/$2" most="$3" left=$((limit - SECONDS - $4)) start=$SECONDS status=0
  shift 4
  ((most < left)) && left=$most
  if ((left < 5)); then
    failed+=("$name")
    say "$(printf '%-22s no time left' "$name")"
    return
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
}

if compgen -G ".whl/*.whl" >/dev/null; then
  wheels="$(mktemp -d)"
  trap 'rm -rf "$wheels"' EXIT
  step wheels build.log 60 300 "$python" -m pip install --quiet --no-index --no-deps --target "$wheels" .whl/*.whl
  export PYTHONPATH="$PYTHONPATH:$wheels"
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
  "${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" --version 2>&1 | tail -n 2 >>"$out/machine.txt"
  export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$("$python" -c \
    'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null || echo 9.0)}"
fi
tee -a "$out/summary.txt" <"$out/machine.txt"

if [[ $build == yes ]]; then
  [[ $device == cuda ]] && export GRAD_CUDA=1 GRAD_PTXAS=1 || export GRAD_CUDA=0
  step build build.log 300 240 "$python" setup.py build_ext --inplace
fi

mapfile -t operator_tests < <(grep -lE '^from grad\.ops' tests/test_*.py | grep -v test_build.py)
marks="not slow" most=120
[[ $device == cpu ]] && marks="not slow and not cuda" most=250
step tests tests.log "$most" 200 "$python" -m pytest -q -m "$marks" -p no:cacheprovider "${operator_tests[@]}"

# Without torch's cache each tensor is an allocation of its own, so that a read past its end is seen.
# The filter is the namespace of the kernels; initcheck has to see everyone's writes.
check() {
  local tool="$1" most="$2" reserved="$3"
  shift 3
  step "$tool" sanitizer.log "$most" "$reserved" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 60 "$@" \
    "$python" benchmarks/sanitize.py --device cuda
}
if [[ $device == cpu ]]; then
  step sanitize sanitizer.log 60 60 "$python" benchmarks/sanitize.py --device cpu
elif ! PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" command -v compute-sanitizer >/dev/null; then
  failed+=("compute-sanitizer")
  say "compute-sanitizer is not on the PATH: no memory checks"
else
  PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"
  check memcheck 60 170 --kernel-name kns=4grad --padding 32 --report-api-errors no
  check racecheck 60 170 --kernel-name kns=4grad
fi

# The table goes to tables.txt, with what is printed while it is made.
bench() {
  local name="$1" most="$2" reserved="$3"
  shift 3
  step "$name" tables.txt "$most" "$reserved" "$python" "benchmarks/$name.py" --device "$device" \
    --json "$out/${name#bench_}.json" "$@"
}
if [[ $device == cpu ]]; then
  bench bench_refine 90 90 --quick
  bench bench_grid 90 0 --quick
else
  bench bench_refine 90 130 --seconds 65
  # A case that has begun is finished; compiling one can take 15 seconds.
  seconds=$((limit - SECONDS - 75))
  bench bench_grid 200 35 --seconds $((seconds > 170 ? 170 : seconds < 20 ? 20 : seconds))
fi
if [[ -f benchmarks/bench_model.py ]]; then
  bench bench_model 60 0
fi
if [[ $device == cuda ]] && command -v compute-sanitizer >/dev/null; then
  check synccheck 40 20 --kernel-name kns=4grad
  check initcheck 40 0
fi

if ((${#failed[@]})); then
  say "after $SECONDS s: FAILED: ${failed[*]}; the logs are in $out"
  exit 1
fi
say "after $SECONDS s: everything passed; results in $out"
