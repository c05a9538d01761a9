#!/usr/bin/env bash
# Runs the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, over random shapes and
# against plain loops, with each instruction set that this processor has. Without optimisation, so that
# no access is optimised away unseen, and as it compiles twice as fast.
#
#   CXX, CXXFLAGS   the compiler, and flags after those below, such as -O3
#   GRAD_CSRC       the kernels to check (csrc)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
csrc="${GRAD_CSRC:-$here/../../csrc}"
build="$(mktemp -d)"
trap 'rm -rf "$build"' EXIT

flags=(-std=c++17 -O0 -g1 -Wall -Wextra -Werror -fno-math-errno -fno-omit-frame-pointer
  -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -I"$csrc" -I"$here" -I"$here/../kernels" ${CXXFLAGS:-})

find "$csrc" -name '*_cpu.cpp' -print0 | sort -z > "$build/sources"
printf '%s\0' "$here"/*.cpp >> "$build/sources"
xargs -0 -P "$(nproc)" -I{} sh -c 'source="$1"; build="$2"; shift 2
  "$@" -c "$source" -o "$build/$(basename "$source").o"' sh {} "$build" "${CXX:-c++}" "${flags[@]}" \
  < "$build/sources"
"${CXX:-c++}" "${flags[@]}" "$build"/*.o -o "$build/kernels"

# The instruction set that GRAD_CPU asks for; a lower one runs where the processor lacks it.
run_with() {
  local runs
  runs="$(GRAD_CPU=$1 "$build/kernels" --instruction-set 2> "$build/$1.log")"
  if [ "$runs" = "$1" ]; then
    GRAD_CPU=$1 "$build/kernels" > "$build/$1.log" 2>&1
  else
    echo "sanitizer: $1: not on this processor" > "$build/$1.log"
  fi
}

jobs=()
sets=(baseline avx2 avx512)
for set in "${sets[@]}"; do
  run_with "$set" &
  jobs+=($!)
done
failed=0
for i in "${!sets[@]}"; do
  wait "${jobs[i]}" || failed=1
  cat "$build/${sets[i]}.log"
done
[ "$failed" = 0 ] || { echo "sanitizer: failed"; exit 1; }
total="$(awk '/ cases$/ {sum += $(NF - 1)} END {print sum + 0}' "$build"/*.log)"
echo "sanitizer: $total cases passed"
