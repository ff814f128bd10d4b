"""Data files of the tasks that models are trained for: reading, features, scoring."""
