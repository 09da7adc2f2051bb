"""What is reported of data, graphs and runs: findings, comparisons, verdicts."""
