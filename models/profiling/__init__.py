"""``refimpl profile``: where the time of a pass goes, and what bounds each of its steps."""
