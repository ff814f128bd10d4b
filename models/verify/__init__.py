"""``refimpl verify``: a compressed model and, if it is there, the f32 one, run every way and judged against engines."""
