"""Answers: results and histories in, tables, figures and reports out; no task is known by name."""
