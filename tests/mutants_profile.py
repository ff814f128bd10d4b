"""Plausible wrong counts of what a plan does, and of what becomes of a file. tests/test_mutants.py runs them."""

import numpy as np
from mutants import Suite
from test_7_graph import check_absorbed
from test_7_profile import check_parts, check_shares, check_work

from refimpl.models.graph import operators
from refimpl.models.profiling import passes, roofs
from refimpl.models.runtime import work
from refimpl.models.runtime.work import given_to

# --- work ------------------------------------------------------------------------------------------------------------


def recounted(change):
    """``work`` with some fields changed. change: (arguments by name, ready, what is right) -> fields."""

    def version(step, ready):
        done = work.work(step, ready)
        return done._replace(**change(given_to(step, ready), ready, done))

    return version


def with_fillers(given, ready, done):
    return {"integer": 4 * given["indices"].size * (given["x"].size // given["k"])} if "indptr" in given else {}


def tokens_only(given, ready, done):
    shape = ready.plan.shape
    return {"integer": done.integer * int(ready.arrays["lengths"].sum()) // (shape.panels * shape.width)}


def every_key_of_the_panel(given, ready, done):
    if not done.floating:
        return {}
    lanes = -(-given["lengths"] // ready.plan.shape.width) * ready.plan.shape.width
    return {"floating": 2 * given["d"] * int((lanes * lanes).sum())}


def one_product(given, ready, done):
    return {"floating": done.floating // 2}


def steps_always_read(given, ready, done):
    unread = isinstance(given.get("step"), np.ndarray) and given["out"].dtype == np.float32
    return {"parameters": done.parameters + (given["step"].nbytes if unread else 0)}


def whole_tables(given, ready, done):
    return {"parameters": given["codes"].nbytes} if "codes" in given else {}


def overwritten_once(given, ready, done):
    in_place = "indptr" in given and given["out"].dtype == np.float32
    return {"activations": done.activations - (given["out"].nbytes if in_place else 0)}


WORK = Suite(
    check_work,
    work.work,
    {
        "zeros that fill a group count": recounted(with_fillers),
        "empty lanes do not count": recounted(tokens_only),
        "every key of a panel counts": recounted(every_key_of_the_panel),
        "scores without context": recounted(one_product),
        "steps read where no codes are written": recounted(steps_always_read),
        "whole tables read": recounted(whole_tables),
        "an overwritten tensor moved once": recounted(overwritten_once),
    },
)

# --- times and roofs -------------------------------------------------------------------------------------------------


def every_pass(marks, steps, look):
    names = passes.parts(marks, steps, look)
    mean = np.diff(np.array(marks), axis=1).mean(0) - look
    return dict(zip(names, [*mean.tolist(), look * len(mean)], strict=True))


def medians(marks, steps, look):
    names = passes.parts(marks, steps, look)
    middle = np.median(np.diff(np.array(marks), axis=1), 0) - look
    return dict(zip(names, [*middle.tolist(), look * len(middle)], strict=True))


def fastest_of_each_part(marks, steps, look):
    names = passes.parts(marks, steps, look)
    least = np.sort(np.diff(np.array(marks), axis=1), 0)[:2].mean(0) - look
    return dict(zip(names, [*least.tolist(), look * len(least)], strict=True))


PARTS = Suite(
    check_parts,
    passes.parts,
    {
        "slow passes count": every_pass,
        "a median for each part": medians,
        "other passes for each part": fastest_of_each_part,
        "looks not taken off": lambda marks, steps, look: passes.parts(marks, steps, 0.0),
    },
)


def one_peak(seconds, calls, done, given):
    return roofs.shares(seconds, calls, done._replace(integer=done.integer + done.floating, floating=0), given)


def one_place(seconds, calls, done, given):
    both = done._replace(parameters=done.parameters + done.activations, activations=0)
    return roofs.shares(seconds, calls, both, given)


SHARES = Suite(
    check_shares,
    roofs.shares,
    {
        "f32 at VNNI's peak": one_peak,
        "activations from where parameters are": one_place,
        "one call whatever their number": lambda seconds, calls, *rest: roofs.shares(seconds, 1, *rest),
    },
)

# --- the graph -------------------------------------------------------------------------------------------------------


def moved(op, source, target):
    """The last operator of a type taken from a step of the first layer and given to another."""

    def version(*given):
        found = operators.absorbed(*given)
        source_, target_ = (found[f"layer.0.{name}"] for name in (source, target))
        target_.append(source_.pop(max(i for i, x in enumerate(source_) if x.op == op)))
        return found

    return version


ABSORBED = Suite(
    check_absorbed,
    operators.absorbed,
    {
        "the residual added in the norm": moved("Add", "attention_sum", "attention_norm"),
        "GELU before the layer": moved("Gelu", "output.codes", "attention_norm"),
        "codes made by who reads them": moved("QuantizeLinear", "attention_output.codes", "attention_sum"),
        "heads split in the product": moved("Transpose", "attention_output.codes", "qkv"),
    },
)

PROFILE = [WORK, PARTS, SHARES, ABSORBED]
