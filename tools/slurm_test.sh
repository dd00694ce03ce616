#!/usr/bin/env bash
# Evaluate under Slurm: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# Variables as for slurm_train.sh.
[ $# -ge 4 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options]" >&2; exit 2; }
exec bash "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh" test.py "$1" "$2" "$3" "$4" "${@:5}"
