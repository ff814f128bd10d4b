"""Quantization of a whole model, after and during training: observing, learned ranges, smoothing, biases, tuning."""
