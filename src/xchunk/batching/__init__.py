"""Many rechunks from one list of jobs: unattended, safe to start again, on many machines."""
