"""Benchmarks, run with ``asv run --config asv_bench/asv.conf.json --python=same``.

Each ``setup`` allocates, packs, compiles and compares the result with the oracle; the timed part only runs. What is
tracked is a ratio within one run, not an absolute time.
"""
