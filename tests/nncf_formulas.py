"""NNCF's movement sparsity in plain Python numbers, element by element, written from its formulas alone.

An oracle: imports nothing of ours and no NumPy. Matrices are lists of rows; sums are exact (``math.fsum``).
"""

import math


def expanded(scores, rows, columns):
    return [
        [scores[i // rows][j // columns] for j in range(len(scores[0]) * columns)] for i in range(len(scores) * rows)
    ]


def quantile(values, q):
    """Linear between the two around position q (n - 1)."""
    ordered, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def mask(scores, rows, columns, threshold):
    importance = expanded(scores, rows, columns)
    cut = min(threshold, quantile([s for row in importance for s in row], 0.98))
    return [[s > cut for s in row] for row in importance]


def masked(weight, kept):
    return [[w if k else 0.0 for w, k in zip(*rows, strict=True)] for rows in zip(weight, kept, strict=True)]


def score_gradient(upstream, weight, rows, columns):
    """The sum of dW' W over each block, and of its absolute values, which bounds what rounding does."""
    found = []
    for size in (lambda x: x, abs):
        found.append([
            [
                math.fsum(
                    size(upstream[i][j] * weight[i][j])
                    for i in range(r * rows, (r + 1) * rows)
                    for j in range(c * columns, (c + 1) * columns)
                )
                for c in range(len(weight[0]) // columns)
            ]
            for r in range(len(weight) // rows)
        ])  # fmt: skip
    return found


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def loss(weight_scores, bias_scores, rows, columns, factor):
    """Of one layer."""
    flat = [sigmoid(s) for row in weight_scores for s in row]
    of_bias = [sigmoid(s) for s in bias_scores]
    total = 0.5 * rows * columns * math.fsum(flat) / len(flat) + 0.5 * rows * math.fsum(of_bias) / len(of_bias)
    return factor * total


def schedule(step, plan, start_value):
    """(threshold, factor) with plan: start and end epoch, steps per epoch, full factor, final threshold, power."""
    start, end, steps, factor, final, power = plan
    first, last = int(start * steps), int(end * steps)
    if step < first:
        return -math.inf, 0.0
    if step >= last:
        return final, 0.0
    epoch, local = divmod(step - first, steps)
    progress = (epoch + local / steps) / (end - start)
    scale = 1 - (1 - progress) ** power
    return start_value + scale * (final - start_value), scale * factor


def first_threshold(importances):
    """importances: every expanded score of the model."""
    return sorted(importances)[min(len(importances), int(len(importances) * 0.001) + 1) - 1]


def structured(members, size):
    """Which heads or neurons live. members: (weight mask, bias mask, whether units are rows)."""
    answers = []
    for weight, bias, by_rows in members:
        grid = weight if by_rows else [list(column) for column in zip(*weight, strict=True)]
        pooled = [any(any(row) for row in grid[u * size : (u + 1) * size]) for u in range(len(grid) // size)]
        if by_rows:
            any_weight = any(pooled)
            pooled = [(p or any(bias[u * size : (u + 1) * size])) and any_weight for u, p in enumerate(pooled)]
        answers.append(pooled)
    return [any(unit) for unit in zip(*answers, strict=True)]
