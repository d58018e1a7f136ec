"""WHAT must be remembered: sequences, their right answers, and what counts as right."""
