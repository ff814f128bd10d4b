"""Recipes: a model compressed stage by stage for a task, what was written of it, and what engines make of that."""
