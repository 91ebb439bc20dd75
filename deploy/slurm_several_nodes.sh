#!/bin/bash
#SBATCH --job-name=fan
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=256G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# From the checkout, on a disk that all nodes see: sbatch deploy/slurm_several_nodes.sh
# The first node is the head of a Ray cluster and runs the driver; the search begins when all nodes have joined.
set -u
cd "$SLURM_SUBMIT_DIR" || exit 2
. .venv/bin/activate

# Ray asks each node for the token in ~/.ray/auth_token, which they share.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null || exit 1
head=$(hostname)
address="$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):$((20000 + SLURM_JOB_ID % 10000))"

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="${address%:*}" --port="${address#*:}" --block &
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    until ray status --address="$address" >/dev/null 2>&1; do sleep 2; done
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --nodes="$others" --ntasks="$others" --exclude="$head" ray start --address="$address" --block &
fi
until [ "$(ray status --address="$address" 2>/dev/null | grep -c ' node_')" -ge "$SLURM_JOB_NUM_NODES" ]; do sleep 2; done

trap 'kill -USR1 "$!"' USR1 # $! is the search, from its first moment on
trap 'kill -TERM "$!"' TERM
deploy/start_or_resume.sh runs/fan --space ad_tuning --data-root recordings --machine-type fan \
    --gpu-memory-budget 24GiB --address "$address" --storage-path "$SLURM_SUBMIT_DIR/checkpoints" &
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
kill %1 %2 2>/dev/null # Ray
exit "$status"
