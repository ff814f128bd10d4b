"""Recipes: a row of stages that compress a model for a task, from a file to a folder of models and a report."""
