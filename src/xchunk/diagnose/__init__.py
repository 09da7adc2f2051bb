"""Looking at what is there: checks, probes and graphs."""
