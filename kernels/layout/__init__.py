"""How matrices lie in memory for the kernels: each layout drawn once, with its index formula and exact inverse."""
