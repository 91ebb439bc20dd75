#!/bin/sh
# start_or_resume.sh RUN FLAGS...: starts the search in the folder RUN, or resumes the one that has begun there.
# For whatever starts a search again by itself: systemd, Slurm's requeue, Kubernetes.
# Flags are the same each time: a resume refuses those that would change results.
set -eu
run=$1
shift
if [ -e "$run/manifest.json" ]; then
    exec python -m search.run --resume "$run" "$@"
fi
exec python -m search.run --output "$run" "$@"
