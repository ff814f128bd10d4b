"""SIMD registers as values, instructions as functions, and kernels written with them that run in three ways."""
