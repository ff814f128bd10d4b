"""Plausible wrong ways to lay shared weights out, and to choose among instances. tests/test_mutants.py runs them."""

import test_7_instances as instances
import test_7_tune as tune
from mutants import Suite

from refimpl.models.runtime.shared import lay_out
from refimpl.models.tune.splits import fastest


def named_by_digits(places):
    """As Intel Extension for Transformers finds a weight: by its offset and its size in a file, run together."""
    offsets, size = lay_out(places)
    named: dict[str, int] = {}
    return [named.setdefault(f"{at}{place.size}", at) for at, place in zip(offsets, places, strict=True)], size


def found_by(field):
    def wrong(places):
        first = {getattr(place, field): place for place in reversed(places)}
        return lay_out([first[getattr(place, field)] for place in places])

    return wrong


def each_anew(places):
    return lay_out([place._replace(address=i) for i, place in enumerate(places)])


def packed_tightly(places):
    known: dict[tuple[int, int], int] = {}
    end = 0
    for place in places:
        if place not in known:
            known[place], end = end, end + place.size
    return [known[place] for place in places], end


def chosen(by, within):
    def wrong(rows, limit=None):
        return max((row for row in rows if limit is None or within(row, limit)), key=by, default=None)

    return wrong


def rate(row):
    return row.rate


INSTANCES = [
    Suite(
        instances.check_lay_out,
        lay_out,
        {
            "named by the digits of offset and size": named_by_digits,
            "known by the address alone": found_by("address"),
            "known by the size alone": found_by("size"),
            "what appears twice is stored twice": each_anew,
            "not on cache lines": packed_tightly,
        },
    ),
    Suite(
        tune.check_fastest,
        fastest,
        {
            "half of the batches are within": chosen(rate, lambda row, limit: row.samples.median <= limit),
            "less than the limit": chosen(rate, lambda row, limit: row.samples.p90 < limit),
            "the largest batch": chosen(lambda row: row.batch, lambda row, limit: row.samples.p90 <= limit),
            "the quickest": chosen(lambda row: -row.samples.p90, lambda row, limit: row.samples.p90 <= limit),
        },
    ),
]
