#!/bin/sh
# Compiler launcher of the CUDA plug-in: runs the compilation that follows (through ccache, which repeats what ptxas said),
# keeps its output beside the object as <object>.ptxas, and shows it only when it fails.
object=""
previous=""
for argument in "$@"; do
  if [ "$previous" = "-o" ]; then object="$argument"; fi
  previous="$argument"
done
[ -n "$object" ] || exec "$@"
if "$@" >"$object.ptxas" 2>&1; then
  exit 0
else
  status=$?
fi
cat "$object.ptxas" >&2
rm -f "$object.ptxas"
exit "$status"
