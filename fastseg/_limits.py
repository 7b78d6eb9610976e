"""Limits and names that the NumPy and the torch side share; imports neither."""

NORMALIZATIONS = ("none", "mean", "before", "after", "symmetric")
MAX_LABELS = 1000
MAX_ITERATIONS = 100
MAX_THREADS = 1024  # kMaxThreads in csrc/common/thread_pool.h

# Where pydensecrf's unary_from_softmax clips: an impossible label costs 11.5 and not infinity.
PROBABILITY_FLOOR = 1e-5
