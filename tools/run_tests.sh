#!/usr/bin/env bash
# Sets the environment up where needed, then runs the tests in it (all of them, slow ones too).
# Arguments go to pytest, for example: tools/run_tests.sh -m 'not slow' tests/test_check_env.py
# Works from any directory; paths are relative to the repository root.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/setup_env.sh
. "$here/setup_env.sh" || exit $?

# An environment that was there before may lack what only the tests need.
mmf_need_test_packages || exit $?

cd "$here/.."
# A process per core, each with one thread: the tests' networks are too small for more.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PY" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
