"""Functions of the rows of an f32 matrix: what an encoder computes between its matrix products.

Every row is walked sixteen lanes at a time, the last time under a mask, so a row may have any length and there is no
second loop for its tail.
"""
