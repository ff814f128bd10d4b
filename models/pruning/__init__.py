"""Structured pruning of whole models: from masks to heads and neurons that are gone."""
