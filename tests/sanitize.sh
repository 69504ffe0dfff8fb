#!/bin/sh
# The kernels under AddressSanitizer with UndefinedBehaviorSanitizer, and at the same time under ThreadSanitizer; a finding
# ends it with an error: `make sanitize`, or `tests/sanitize.sh [SET]` for another instruction set than the slowest one.
# Each is built for one set at -O1, and seen to find a mistake that is made on purpose before the tests are run on it.
# PYTHON is the interpreter, default .venv/bin/python; SANITIZERS="address thread". Needs Linux, CMake and GCC.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
python=$(command -v "${PYTHON:-.venv/bin/python}")
case $python in /*) ;; *) python=$root/$python ;; esac
case $(uname -m) in x86_64) set=${1:-baseline} ;; *) set=${1:-neon} ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Every kernel forward and backward: scans, convolutions, products, programs of one token, odd and wrong calls.
tests="tests/ops/test_arguments.py tests/ops/test_default_dtype.py tests/ops/test_native.py tests/ops/test_steps.py
    tests/ops/test_likeliest.py tests/ops/test_linear_product.py tests/ops/test_causal_conv1d.py
    tests/generation/test_decode_program.py tests/generation/test_row_program.py"
# What a child without threads or another process does cannot be followed, weak symbols are the sanitizers' own, and
# compiled graphs run none of our code.
left_out="not forked and not openmp_runtime and not unknown_instruction_set and not weak and not compile"

begin() { # NAME of a sanitizer, libraries that come before all others
    build=$work/$1 began=$(date +%s)
    cmake -S . -B "$build" -DSSM_SANITIZE="$1" -DSSM_SETS="$set" -DCMAKE_BUILD_TYPE=Release > "$build.log"
    cmake --build "$build" --parallel 1 >> "$build.log" || { cat "$build.log"; exit 1; }
    # Python imports sitecustomize before anything else: every process of the tests finds this library first.
    mkdir "$build/site"
    printf 'import ssmlab\n\nssmlab.__path__.insert(0, "%s")\n' "$build" > "$build/site/sitecustomize.py"
    preload=
    for library in $2; do preload="$preload $(g++ -print-file-name="$library")"; done
    echo "$1, $set: built in $(($(date +%s) - began)) s"
}
under() { # a command of Python's, with the library that was built last
    # without random addresses, which older versions of ThreadSanitizer do not expect where they come
    setarch "$(uname -m)" -R env LD_PRELOAD="$preload" PYTHONPATH="$build/site:tests" SSMLAB_ISA="$set" "$python" "$@"
}
finds() { # TEXT that the sanitizer writes, CODE with a mistake
    if under -c "$2" > "$build.found" 2>&1 || ! grep -q "$1" "$build.found"; then
        cat "$build.found"
        echo "a mistake made on purpose was not found ($1)"
        exit 1
    fi
}
races() { # a race in a region of OpenMP is found, and none where there is none
    printf '%s\n' '#include <cstdlib>' 'long sum, each[1000];' 'int main(int count, char **) {' \
        '#pragma omp parallel for num_threads(3) schedule(dynamic, 1)' \
        'for (long i = 0; i < 1000; i++) (count > 1 ? sum : each[i]) += i;' '}' > "$work/race.cpp"
    g++ -std=c++20 -O1 -g -fopenmp -fsanitize=thread -c "$work/race.cpp" -o "$work/race.o"
    g++ -std=c++20 -O1 -g -fsanitize=thread "$work/race.o" tests/teams.cpp -o "$work/race"
    setarch "$(uname -m)" -R "$work/race"
    ! setarch "$(uname -m)" -R "$work/race" twice > "$build.found" 2>&1 && grep -q "data race" "$build.found"
}
check() { # NAME, how many random calls
    under -W ignore tests/ops/fuzz.py "$2" 0 > "$build.calls" || { cat "$build.calls"; exit 1; }
    ! grep -vE "^(valid|extreme|wrong) +(right|refused) " "$build.calls" || exit 1
    under -m pytest -p no:cacheprovider --capture=sys --timeout 3600 -k "$left_out" $tests
    echo "$1, $set: no finding; $(($(date +%s) - began)) s"
}

# Python itself leaks on purpose.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# Threads that wait turning on a core leave none for those they wait for, where the machine has few.
export OMP_WAIT_POLICY=passive

address() {
    export OMP_NUM_THREADS=2
    begin address "libasan.so libubsan.so libstdc++.so"
    finds "AddressSanitizer: heap-buffer-overflow" "
import torch
from ssmlab.ops import steps
steps.conv_step(torch.zeros(4, 8), torch.zeros(4, 8, 3), torch.zeros(8, 4), torch.zeros(7), True)"
    check address 250
}
thread() {
    # Our threads are all in our library: Python and torch are not instrumented, nor is what they do to memory.
    export OMP_NUM_THREADS=3 TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0
    begin thread "libtsan.so libstdc++.so"
    finds "ThreadSanitizer: data race" "
import threading, torch
from ssmlab.ops import steps
state, given = torch.zeros(64, 4096, 3), (torch.zeros(64, 4096), torch.zeros(4096, 4), None, True)
def call():
    for _ in range(20): steps.conv_step(given[0], state, *given[1:])
each = [threading.Thread(target=call) for _ in range(2)]
[thread.start() for thread in each], [thread.join() for thread in each]"
    races || { echo "a race made on purpose was not found in a region, or one was found where there is none"; exit 1; }
    check thread 60
}

code=0 halves=
for sanitizer in ${SANITIZERS:-address thread}; do
    case $sanitizer in address | thread) ;; *) echo "SANITIZERS are address and thread, got $sanitizer"; exit 2 ;; esac
    ( "$sanitizer" ) > "$work/$sanitizer.out" 2>&1 &
    halves="$halves $sanitizer:$!"
done
for half in $halves; do
    wait "${half#*:}" || code=1
    cat "$work/${half%:*}.out"
done
exit $code
