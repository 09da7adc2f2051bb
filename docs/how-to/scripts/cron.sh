#!/bin/bash
# Rechunk every night what has come in since. In the crontab:
#
#     15 2 * * *  /home/me/archive/cron.sh /home/me/archive/jobs.toml
#
# It says nothing where all is well, so that cron sends a mail only where something failed. What
# was done before is skipped, and what has changed since is done again.
set -euo pipefail

jobs=${1:?usage: cron.sh JOBS.toml}
folder=$(cd -- "$(dirname -- "$jobs")" && pwd)
report=$folder/report-$(date +%F).html

# cron has a bare PATH: name the environment that xchunk is installed in
export PATH=${XCHUNK_ENV:-$HOME/.venv}/bin:$PATH

# A run that takes longer than a day keeps the next one from starting. The lock is the job
# file's own, and goes with the process that holds it.
exec 9<"$jobs"
if ! flock --nonblock 9; then
    echo "the run of the day before is still at work on $jobs" >&2
    exit 0
fi

code=0
said=$(nice xchunk batch "$jobs" --quiet --report "$report" 2>&1) || code=$?
if [ "$code" -ne 0 ]; then
    printf '%s\n' "$said" "exit code $code; the report is $report" >&2
fi
# reports of the last month are kept
find "$folder" -maxdepth 1 -name 'report-????-??-??.html' -mtime +31 -delete
exit "$code"
