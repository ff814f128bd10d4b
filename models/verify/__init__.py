"""``refimpl verify``: a model in f32 and compressed, run every way there is, and judged against two engines."""
