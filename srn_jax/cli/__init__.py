"""The command line: arguments become a call of `srn_jax`, and nothing else."""
