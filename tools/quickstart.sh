#!/usr/bin/env bash
# Sets the environment up where needed, then runs the quickstart in it.
# Arguments go to tools/quickstart.py; paths among them are relative to the current directory.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/tools/setup_env.sh")
# An environment that was there before need not have this checkout installed.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/tools/quickstart.py" "$@"
