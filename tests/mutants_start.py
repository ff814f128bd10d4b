"""Plausible wrong ways of running many texts. tests/test_mutants.py runs them."""

import pytest
import test_3_tasks as running
from mutants import Suite

from refimpl.models import tasks


def changed(**parts):
    """``in_batches`` with functions of its module exchanged."""

    def in_batches(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            for name, part in parts.items():
                patch.setattr(tasks, name, part)
            return tasks.in_batches(*arguments)

    return in_batches


def unsorted(lengths, most):
    return [list(range(start, min(start + 2, len(lengths)))) for start in range(0, len(lengths), 2)]


def in_order_of_length(ready, rows, finish, say):
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [tasks.in_batches(ready, rows, finish, say)[i] for i in order]


def padding_kept(ready, rows, finish, say):
    def whole(i, row):
        return finish(i, row._replace(ids=row.output[:, 0]))

    return tasks.in_batches(ready, rows, whole, say)


START = [
    Suite(
        running.check_in_batches,
        tasks.in_batches,
        {
            "as they come": changed(_batches=unsorted),
            "one batch": changed(_batches=lambda lengths, most: [list(range(len(lengths)))]),
            "a text is forgotten": changed(_batches=lambda lengths, most: [[i] for i in range(len(lengths) - 1)]),
            "in the order of their lengths": in_order_of_length,
            "padding kept": padding_kept,
        },
    ),
]
