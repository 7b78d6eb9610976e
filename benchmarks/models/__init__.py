"""Whole networks against torch's ways to run them."""
