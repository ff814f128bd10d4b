"""Records: what an engine returned at every tensor, on which CPU, so that it can be judged elsewhere and later."""
