"""Speed and memory of fastseg against its best alternatives: see benchmarks/README.md."""
