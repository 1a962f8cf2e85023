#!/usr/bin/env bash
# The GPU tests under NVIDIA's compute-sanitizer: memory errors, races in shared memory, reads of what nobody wrote,
# misused barriers. Slow. Needs a GPU and the CUDA toolkit. Tests and tools can be chosen:
#     PYTHON=python3 TOOLS="memcheck racecheck" tests/gpu/sanitize.sh "composite and 33"
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed (it comes with the CUDA toolkit)" >&2
    exit 1
fi
# without torch's cache every tensor is an allocation of its own, so that a step beyond it is seen
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in ${TOOLS:-memcheck racecheck initcheck synccheck}; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
        "$python" -m pytest -q -p no:cacheprovider tests/gpu -k "(${1:-test}) and not graph and not beyond_32_bits"
done
