"""Watching a kernel: every instruction of a tiny product, what it does and why, on a terminal or on a page."""
