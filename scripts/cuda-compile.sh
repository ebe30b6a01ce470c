#!/usr/bin/env bash
# Compiles every .cu under native/ for sm_80, sm_90a and as PTX for compute_80, and compares what ptxas says (registers,
# spills, stack, serialised wgmma) with native/cuda/budget.json. Needs nvcc, no GPU. With --update the budget is rewritten
# from this run (spills and stack frames still fail).
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=""
for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}"; do
  if [ -n "$candidate" ] && [ -x "$candidate" ]; then
    nvcc="$candidate"
    break
  fi
done
if [ -z "$nvcc" ]; then
  echo "nvcc not found: skipped (looked at CUDACXX, PATH and CUDA_HOME)"
  exit 0
fi

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
while IFS= read -r file; do
  echo "nvcc $file"
  if ! "$nvcc" -std=c++17 -O3 -Xptxas -v -Inative -Inative/test/cuda \
      -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
      -gencode arch=compute_80,code=compute_80 \
      -c "$file" -o "$out/object.o" >"$out/${file//\//__}.ptxas" 2>&1; then
    cat "$out/${file//\//__}.ptxas"
    exit 1
  fi
done < <(find native -name '*.cu' | sort)
node scripts/cuda-budget.mjs "$out" native/cuda/budget.json "$@"
