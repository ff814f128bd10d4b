"""Training: parameters by name, the optimizer, schedules, batches, checkpoints, the loop, and tasks to train for."""
