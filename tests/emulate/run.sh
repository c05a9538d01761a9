#!/usr/bin/env bash
# Runs the CUDA kernels on the CPU, as csrc has them: compiled by the host's compiler, with every access,
# barrier and launch checked, over random shapes and against plain loops. README.md says how.
#
#   run.sh                  a third of the random cases for each pair of types, not all the same; mutants
#   run.sh --full           all cases, three times as many random ones, also under AddressSanitizer and
#                           UndefinedBehaviorSanitizer; a summary goes to benchmarks/results/emulate.md
#   run.sh --count FOLDER   no check: puts the programs of workloads.cpp into FOLDER, which count what a
#                           profiler would, one for each pair: workloads.VALUES.PARAMETERS
#
#   CXX, PYTHON, JOBS   the compiler, the interpreter, and how many processes (one a core)
#   GRAD_CSRC           the kernels to check (csrc)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
csrc="$(cd "${GRAD_CSRC:-$root/csrc}" && pwd)"
full="" count_into=""
case "${1:-}" in
  --full) full=yes ;;
  --count) count_into="$(mkdir -p "$2" && cd "$2" && pwd)" ;;
  ?*) sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
jobs="${JOBS:-$(nproc)}"
compiler="${CXX:-c++}"
python="${PYTHON:-python3}"
build="$(mktemp -d)"
trap '{ kill $(jobs -p); wait; } 2>/dev/null || true; rm -rf "$build"' EXIT
SECONDS=0

"$python" "$here/translate.py" "$csrc" "$build/translated"
"$python" "$here/translate.py" "$here/selftest" "$build/selftest"

# Debug information of version 4: addr2line errs about names of files in version 5.
common=("$compiler" -std=c++20 -g1 -gdwarf-4 -fno-strict-aliasing -no-pie -D__CUDACC__ -D__CUDA_ARCH__=900
  -I"$here/toolkit" -I"$here" -I"$root/tests/kernels")
ours=(-Wall -Wextra -Werror -Wno-unknown-pragmas "-DEMULATE_ROOT=\"$root/\"")
# The modes shadow and count are called before each access: ThreadSanitizer's calls, but not its library.
shadow=() shadow_kernels=(-w -O1 -fsanitize=thread --param tsan-instrument-func-entry-exit=0)
count=() count_kernels=("${shadow_kernels[@]}")
heap=(-DEMULATE_ADDRESS -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
  -fno-omit-frame-pointer)
heap_kernels=("${heap[@]}" -w -O1)
export ASAN_OPTIONS=detect_leaks=0  # fibers that a fault left behind

# The pairs of types that the sources name, "VALUES PARAMETERS" a line.
pairs() {
  printf '#include "common/types.h"\n#define PAIR(T, G) pair: T G\nGRAD_FOR_EACH_TYPE_PAIR(PAIR)\n' |
    "$compiler" -E -P -x c++ -I"$csrc" - | grep -o 'pair: [A-Za-z0-9:]* [A-Za-z0-9:]*' | sed 's/^pair: //'
}

# emulator MODE: its objects, in $build/emulator.MODE. Each mode has a source that the others have not.
emulator() {
  local -n flags="$1"
  mkdir "$build/emulator.$1"
  for source in "$here"/emulator/*.cpp; do
    case "$(basename "$source" .cpp)" in
      "$1") ;;
      shadow | count | heap) continue ;;
    esac
    "${common[@]}" "${ours[@]}" "${flags[@]}" -O2 -c "$source" -o "$build/emulator.$1/$(basename "$source").o"
  done
}

# kernels MODE VALUES PARAMETERS MAIN: their program, in $build/MODE.VALUES.PARAMETERS, and how it was made.
kernels() {
  local -n flags="$1" kernel_flags="${1}_kernels"
  local folder="$build/$1.$2.$3" types=("-DEMULATE_VALUES=$2" "-DEMULATE_PARAMETERS=$3")
  mkdir -p "$folder/kernels"
  local compile=("${common[@]}" "${kernel_flags[@]}" "${types[@]}" -x c++)
  local link=("$compiler" -no-pie "$build/emulator.$1"/*.o "$folder/main.o")
  if [ "$1" = heap ]; then link+=(-fsanitize=address,undefined); fi
  for source in "$build"/translated/*/*.cu; do
    "${compile[@]}" -I"$build/translated" -MMD -c "$source" -o "$folder/kernels/$(basename "$source").o"
  done
  "${common[@]}" "${ours[@]}" "${flags[@]}" "${types[@]}" -I"$build/translated" -O1 -c "$here/$4" \
    -o "$folder/main.o"
  printf '%s\n' "${compile[@]}" > "$folder/compile"
  printf '%s\n' "${link[@]}" > "$folder/link"
  "${link[@]}" "$folder"/kernels/*.o -o "$folder/program"
}

# check MODE VALUES PARAMETERS ARGUMENTS...: builds and runs one pair of types.
check() {
  kernels "$1" "$2" "$3" main.cpp
  "$build/$1.$2.$3/program" "${@:4}" | sed "s/^emulator:/emulator ($1):/"
}

selftest() {
  local folder="$build/selftest"
  "${common[@]}" "${shadow_kernels[@]}" -x c++ -c "$folder/wrong_kernels.cu" -o "$folder/kernels.o"
  "${common[@]}" "${ours[@]}" -O1 -I"$csrc" -c "$here/selftest/selftest.cpp" -o "$folder/main.o"
  "$compiler" -no-pie "$build"/emulator.shadow/*.o "$folder"/*.o -o "$folder/program"
  "$folder/program"
  # An access that ends the program is reported all the same.
  { "$folder/program" --crash || true; } | grep -q "null_pointer, tests/emulate/selftest/wrong_kernels.cu:"
}

workloads() {
  kernels count "$1" "$2" workloads.cpp
  cp "$build/count.$1.$2/program" "$count_into/workloads.${1#grad::}.${2#grad::}"
}

failed=0
started=0
# start COMMAND...: in the background once a process is free; its log in $build/NUMBER.log.
start() {
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || failed=1; done
  local log="$build/$((started++)).log"
  (set -e; "$@") > "$log" 2>&1 || { cat "$log"; exit 1; } &
}
finish() {
  while [ -n "$(jobs -rp)" ]; do wait -n || failed=1; done
}

mapfile -t all_pairs < <(pairs)
[ "${#all_pairs[@]}" -gt 0 ]
if [ -n "$count_into" ]; then
  emulator count
  for pair in "${all_pairs[@]}"; do start workloads $pair; done
  finish
  exit "$failed"
fi

emulator shadow
start selftest
rounds=1 every=3
if [ -n "$full" ]; then rounds=3 every=1; fi
first=0
for pair in "${all_pairs[@]}"; do
  start check shadow $pair "$rounds" "$every" "$((first++ % every))"
done
if [ -n "$full" ]; then
  emulator heap
  for pair in "${all_pairs[@]}"; do start check heap $pair 1; done
fi
finish
"$python" "$here/mutants.py" "$csrc" "$build/shadow.float.float" "$jobs" > "$build/mutants.log" ||
  { cat "$build/mutants.log"; failed=1; }

for ((i = 0; i < started; ++i)); do tail -n 1 "$build/$i.log"; done | tee "$build/summary"
tail -n 1 "$build/mutants.log" | tee -a "$build/summary"
if [ "$failed" != 0 ]; then echo "emulator: failed"; exit 1; fi
echo "emulator: passed in $SECONDS s"

if [ -n "$full" ]; then
  {
    printf '# The CUDA kernels on the CPU\n\n'
    printf '`tests/emulate/run.sh --full`, %s: every access, barrier and launch of the kernels checked, ' "$(date -u +%F)"
    printf 'results against plain loops, in several orders of threads. No fault and no wrong result.\n\n```\n'
    cat "$build/summary"
    printf 'emulator: passed in %s s on %s cores\n```\n\n' "$SECONDS" "$jobs"
    printf 'Kernels made wrong on purpose, and what was reported of each:\n\n```\n'
    grep '^mutant: ' "$build/mutants.log" | sed 's/^mutant: //'
    printf '```\n'
  } > "$root/benchmarks/results/emulate.md"
fi
