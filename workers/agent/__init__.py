"""The agent: the pull loop that claims a cohort, runs it and publishes its results."""
