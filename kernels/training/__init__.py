"""Row-wise kernels of training: backwards, and the optimizer's step. ``table`` puts them into an op table."""
