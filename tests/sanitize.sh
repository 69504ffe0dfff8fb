#!/bin/sh
# Build the kernels with AddressSanitizer and UndefinedBehaviorSanitizer and run the operators' tests on them:
# `tests/sanitize.sh`, or with pytest's arguments instead of tests/ops. PYTHON is the interpreter, default .venv/bin/python.
# Needs CMake and GCC. The first finding of either sanitizer ends the run with an error.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$root" && command -v "${PYTHON:-.venv/bin/python}")
case $python in /*) ;; *) python=$root/$python ;; esac
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cmake -S "$root" -B "$build" -DSSM_SANITIZE=ON -DCMAKE_BUILD_TYPE=Release
cmake --build "$build" --parallel 2

# Python imports sitecustomize before anything else: every process of the tests finds this library first.
mkdir "$build/site"
cat > "$build/site/sitecustomize.py" << END
import ssmlab

ssmlab.__path__.insert(0, "$build")
END

cd "$root"
# Python itself leaks on purpose. Weak symbols are the sanitizers' own, and a child that fork left without threads
# cannot be followed by them.
export PYTHONPATH="$build/site" OMP_NUM_THREADS=2
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
"$python" -c "from ssmlab.ops import _native; import sys; sys.exit(_native.MISSING)"
[ $# -gt 0 ] || set -- tests/ops
"$python" -m pytest -p no:cacheprovider --capture=sys --timeout 3600 --deselect tests/ops/test_native.py::test_no_library_symbol_is_weak "$@"
