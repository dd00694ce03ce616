#!/usr/bin/env bash
# Sets the environment up where needed, then runs the tests in it (all of them, slow ones too).
# Arguments go to pytest, for example: tools/run_tests.sh -m 'not slow' tests/test_check_env.py
# Works from any directory; paths are relative to the repository root.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/tools/setup_env.sh" pytest pytest-xdist timm hypothesis)
cd "$root"
# An environment that was there before need not have this checkout installed.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# A process per core, each with one thread: the tests' networks are too small for more.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
