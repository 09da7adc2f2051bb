"""Many rechunks from one list of jobs: unattended, safe to start again, over many machines."""
