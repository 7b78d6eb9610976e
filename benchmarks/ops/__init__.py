"""The cases of one operator per file, for run.py and for pytest-benchmark."""
