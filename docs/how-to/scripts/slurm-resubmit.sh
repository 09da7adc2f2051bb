#!/bin/bash
# Submit an array again and again until every job of a file is done, at most five times.
#
#     ./slurm-resubmit.sh jobs.toml
set -euo pipefail

jobs=${1:?usage: slurm-resubmit.sh JOBS.toml}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

after=()
for _ in 1 2 3 4 5; do
    # each array begins when the one before has ended, however it ended; once all is done it
    # takes seconds
    number=$(sbatch --parsable "${after[@]}" "$here/slurm-array.sh" "$jobs")
    after=("--dependency=afterany:${number%%;*}")
    echo "submitted $number"
done
