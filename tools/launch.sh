#!/usr/bin/env bash
# Start a verb of the console command in several processes: launch.sh VERB PROCESSES ARGUMENTS...
# Used by dist_train.sh and dist_test.sh, which say what the variables are for.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
verb=$1 processes=$2
shift 2

python=${PYTHON:-python}
# Outside of an activated environment, the one that the quickstart has made serves.
if ! "$python" -c 'import torch, mmmetaformer' 2>/dev/null && [ -x "$tools/../.venv/bin/python" ]; then
    python=$tools/../.venv/bin/python
fi
exec "$python" -m mmmetaformer "$verb" --gpus "$processes" "$@"
