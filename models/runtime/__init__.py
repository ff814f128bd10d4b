"""The engine: a packed model as a plan of named kernels on activation panels, in one block of memory."""
