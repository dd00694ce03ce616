#!/usr/bin/env bash
# Start tools/SCRIPT in several processes: launch.sh SCRIPT PROCESSES ARGUMENTS...
# Used by dist_train.sh and dist_test.sh, which say what the variables are for.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$1 processes=$2
shift 2
[[ $processes =~ ^[1-9][0-9]*$ ]] || { echo "error: the number of GPUs is a positive integer, got '$processes'" >&2; exit 2; }

python=${PYTHON:-python}
# Outside of an activated environment, the one that the quickstart has made serves.
if ! "$python" -c 'import torch, mmmetaformer' 2>/dev/null && [ -x "$tools/../.venv/bin/python" ]; then
    python=$tools/../.venv/bin/python
fi

if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    where=(--standalone) # takes a free port
else
    where=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
exec "$python" -m mmmetaformer.engine.torchrun "${where[@]}" --nproc_per_node="$processes" \
    "$tools/$script" "$@" --launcher pytorch
