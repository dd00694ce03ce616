#!/usr/bin/env bash
# Train on several GPUs: dist_train.sh CONFIG GPUS [options of mmmetaformer train]
#
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT. On one machine a free port is
# taken unless PORT is set. Without a GPU, GPUS processes share the CPU.
[ $# -ge 2 ] || { echo "usage: $0 CONFIG GPUS [options of mmmetaformer train]" >&2; exit 2; }
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" train "$2" "$1" "${@:3}"
