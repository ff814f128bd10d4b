"""Integer arithmetic to the bit: narrowing, SIMD instructions, matrix products."""
