"""WHAT remembers: the recurrent cells, and the loop over time that serves them all."""
