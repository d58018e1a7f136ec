"""Answers: results and histories in, tables, figures and reports out; knows no task and no JAX."""
