#!/usr/bin/env bash
# Evaluate on several GPUs: dist_test.sh CONFIG CHECKPOINT GPUS [options of mmmetaformer test]
# Variables as for dist_train.sh.
[ $# -ge 3 ] || { echo "usage: $0 CONFIG CHECKPOINT GPUS [options of mmmetaformer test]" >&2; exit 2; }
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" test "$3" "$1" "$2" "${@:4}"
