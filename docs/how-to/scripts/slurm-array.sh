#!/bin/bash
# Rechunk all that a job file names, in parts on several nodes of a SLURM cluster.
#
#     sbatch slurm-array.sh jobs.toml
#
# Each task of the array runs every N-th job of the file, and writes a part of the state of its
# own. Submitted again, it goes on where it was; what is finished is skipped.
#SBATCH --job-name=xchunk
#SBATCH --array=1-10
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --output=xchunk-%A_%a.log
# Two minutes before the time is up, so that the state is written and the report made:
#SBATCH --signal=B:TERM@120
set -euo pipefail

jobs=${1:?usage: sbatch slurm-array.sh JOBS.toml}
part=${SLURM_ARRAY_TASK_ID:-1}/${SLURM_ARRAY_TASK_COUNT:-1}

# dask's threads are as many as this task's CPUs, not as the node's
export DASK_NUM_WORKERS=${SLURM_CPUS_PER_TASK:-1}

# The limit of the memory is found by the cgroup that SLURM made. In the background, since bash
# handles the signal only when nothing runs in the foreground.
xchunk batch "$jobs" --shard "$part" --report "report-${part//\//-of-}.html" &
running=$!
trap 'kill -TERM "$running"' TERM
code=0
wait "$running" || code=$?
if kill -0 "$running" 2>/dev/null; then
    # the signal ended the first wait: the report is being made
    wait "$running" || code=$?
fi

# 12: some jobs failed; the report says which. Anything else than 0 marks the task as failed.
exit "$code"
