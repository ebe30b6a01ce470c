#!/usr/bin/env bash
# Holds what ptxas says of every kernel (registers, spills, stack, serialised wgmma) against native/cuda/budget.json. Needs
# nvcc, no GPU. The objects are those of the CUDA plug-in: those of build/ where `npm start` has built it, else of a folder
# of its own; scripts/nvcc-report.sh keeps what ptxas said beside each. With --update the budget is rewritten from this
# run (spills and stack frames still fail).
set -euo pipefail
cd "$(dirname "$0")/.."

cached() { grep -qs "^$1" build/CMakeCache.txt; }
dir=build
if ! cached 'CMAKE_CUDA_COMPILER:[A-Z]*=/' || cached 'SMOE_CUDA:STRING=OFF' || cached 'SMOE_CUDA_ARCHS:STRING=.'; then
  dir=build-nvcc
  generator=()
  if command -v ninja >/dev/null; then generator=(-G Ninja); fi
  if ! cmake -S . -B "$dir" "${generator[@]}" -DSMOE_ADDON=OFF -DSMOE_CUDA=AUTO >"$dir.log" 2>&1; then
    cat "$dir.log"
    exit 1
  fi
  if grep -q 'no nvcc found' "$dir.log"; then
    echo "nvcc not found: skipped (looked at CUDACXX, PATH, CUDA_HOME and CUDA_PATH)"
    exit 0
  fi
fi
# Each of the largest kernels takes nvcc 1 to 2 GB.
cmake --build "$dir" --target smoe_cuda smoe_cuda_more_kernels --parallel "${SMOE_JOBS:-2}"

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
while IFS= read -r report; do
  inside="${report#*.dir/}" # CMake writes "..", the way out of native/cuda, as "__"
  case "$inside" in
    __/*) source="native/${inside#__/}" ;;
    *) source="native/cuda/$inside" ;;
  esac
  source="${source%.o.ptxas}"
  if [ -f "$source" ]; then cp "$report" "$out/${source//\//__}.ptxas"; fi # else of a source that is gone
done < <(find "$dir/native/cuda" -name '*.cu.o.ptxas')
while IFS= read -r source; do
  if [ ! -f "$out/${source//\//__}.ptxas" ]; then
    echo "$source: not compiled by native/cuda/CMakeLists.txt"
    exit 1
  fi
done < <(find native -name '*.cu')
node scripts/cuda-budget.mjs "$out" native/cuda/budget.json "$@"
