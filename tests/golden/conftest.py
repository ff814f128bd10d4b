"""Generators of golden files need torch; the tests do not collect them."""

collect_ignore_glob = ["generate_*.py"]
