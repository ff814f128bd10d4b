"""Which instances with how many threads suit a model, this machine and a bound on latency: measured, not guessed."""
