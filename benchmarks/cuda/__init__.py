"""The suites of run.py on a GPU: their sides there, and how these are timed."""
