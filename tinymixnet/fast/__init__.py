"""The fast path to the same numbers: a compiled plan, its kernels, and worker processes."""
