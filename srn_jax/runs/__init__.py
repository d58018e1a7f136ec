"""A folder that survives: settings, checkpoints, the loop that can be interrupted, restoring."""
