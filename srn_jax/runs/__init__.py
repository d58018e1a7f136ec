"""A folder that survives: one run, one table that only grows, checkpoints, restoring."""
