#!/usr/bin/env bash
# Start tools/SCRIPT under Slurm: slurm_launch.sh SCRIPT PARTITION JOB_NAME ARGUMENTS...
# Used by slurm_train.sh and slurm_test.sh, which say what the variables are for.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$1 partition=$2 name=$3
shift 3
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# SRUN_ARGS is a list of options and meant to be split.
# shellcheck disable=SC2086
exec srun -p "$partition" --job-name="$name" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$tools/$script" "$@" --launcher slurm
