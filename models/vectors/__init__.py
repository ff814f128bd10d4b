"""Conformance vectors: a folder from which a kernel in C, C++ or Rust is checked without Python."""
