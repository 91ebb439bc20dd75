#!/bin/bash
#SBATCH --job-name=fan
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# From the checkout: sbatch deploy/slurm_one_node.sh
# Two minutes before its time is over Slurm sends USR1: the search stops, and the job is queued again to resume it.
set -u
cd "$SLURM_SUBMIT_DIR" || exit 2
. .venv/bin/activate

trap 'kill -USR1 "$!"' USR1 # $! is the search, from its first moment on
trap 'kill -TERM "$!"' TERM
deploy/start_or_resume.sh runs/fan --space ad_tuning --data-root recordings --machine-type fan \
    --gpu-memory-budget 24GiB &
search=$!
wait "$search"
status=$?
while kill -0 "$search" 2>/dev/null; do # a signal ends wait, not the search
    wait "$search"
    status=$?
done
if [ "$status" = 138 ]; then # 128 + USR1
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
