"""``refimpl bench``: our engine beside the engines that are installed, on the same weights and ids, in one run."""
