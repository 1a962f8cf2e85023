#!/usr/bin/env bash
# The GPU tests under NVIDIA's compute-sanitizer: memory errors, races in shared memory, misused barriers. Slow.
# Needs a GPU and the CUDA toolkit. Arguments go to pytest: tests/gpu/sanitize.sh -k composite
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed (it comes with the CUDA toolkit)" >&2
    exit 1
fi
# without torch's cache every tensor is an allocation of its own, so that a step beyond it is seen
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck synccheck; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
        "$python" -m pytest -q tests/gpu -k "not graph and not beyond_32_bits" "$@"
done
