"""Plausible wrong ways to find and remove neurons and heads. See tests/mutants.py."""

import numpy as np
import test_8_structured as structured
from mutants import Suite

from refimpl.prune import (
    keep_columns,
    keep_heads,
    keep_neurons,
    keep_rows,
    live_columns,
    live_heads,
    live_neurons,
    live_rows,
)
from refimpl.quant import QuantizedLinear, dequantize_weight, quantize_weight

# --- what lives ------------------------------------------------------------------------------------------------------


def weight_rows(p):
    """A row of zeros with a bias is taken for nothing."""
    return (p[0] != 0).any(1)


def per_head(channels, heads):
    return channels.reshape(heads, -1).any(1)


def channels_of(layer):
    return live_rows(layer.v) & live_columns(layer.attention_output)


def nncf(layer, heads):
    """A head stays if q, k, v or attention_output keeps anything of it."""
    rows = live_rows(layer.q) | live_rows(layer.k) | live_rows(layer.v)
    return per_head(rows | live_columns(layer.attention_output), heads)


def nn_pruning(layer, heads):
    """A head goes if q, k or v is zero in it."""
    return np.all([per_head(weight_rows(p), heads) for p in (layer.q, layer.k, layer.v)], axis=0)


def whole_sides(layer, heads):
    """Each rule asked of a whole head, not of each of its channels."""
    return per_head(live_rows(layer.v), heads) & per_head(live_columns(layer.attention_output), heads)


def head_without_bias(layer, heads):
    return per_head(weight_rows(layer.v) & live_columns(layer.attention_output), heads)


# --- what is kept ----------------------------------------------------------------------------------------------------


def first(live):
    """As many as live, but the first ones."""
    return np.sort(live)[::-1]


def neurons(layer, rows, columns):
    """Removal without a check."""
    return layer._replace(intermediate=keep_rows(layer.intermediate, rows), output=keep_columns(layer.output, columns))


def heads_of(layer, qk, v, columns):
    q, k, v = keep_rows(layer.q, qk), keep_rows(layer.k, qk), keep_rows(layer.v, v)
    return layer._replace(q=q, k=k, v=v, attention_output=keep_columns(layer.attention_output, columns))


def heads_by(channels_of_live):
    """Another way from heads to channels: (live, E) -> bool (H E,)."""

    def mutant(layer, heads, live):
        channels = channels_of_live(live, len(layer.v.bias) // heads)
        return heads_of(layer, channels, channels, channels)

    return mutant


def queries_of_other_heads(layer, heads, live):
    channels, others = (mask.repeat(len(layer.v.bias) // heads) for mask in (live, first(live)))
    return heads_of(layer, others, channels, channels)


def then(keep, change, *names):
    """The true removal, then some of the linear layers changed."""

    def mutant(layer, *arguments):
        after = keep(layer, *arguments)
        return after._replace(**{name: change(getattr(after, name)) for name in names})

    return mutant


def requantized(p):
    """INT8: codes and scales computed anew from the columns that are left."""
    if not isinstance(p, QuantizedLinear):
        return p
    codes, scale = quantize_weight(dequantize_weight(p.codes, p.weight_scale))
    return p._replace(codes=codes, weight_scale=scale)


def recalibrated(p):
    """INT8: the input has a smaller range without what was removed."""
    return p._replace(input_scale=(p.input_scale / 2)[...]) if isinstance(p, QuantizedLinear) else p


def turned(p):
    return p._replace(**{p._fields[0]: p[0][:, ::-1]})


def without_bias(p):
    return p._replace(bias=np.zeros_like(p.bias))


def constants_folded_away(layer, live):
    """Neurons that are constant removed with the dead ones, if that leaves any."""
    live = live & weight_rows(layer.intermediate)
    return neurons(layer, live, live)


def scales_of_the_first(p, live):
    kept = keep_rows(p, live)
    return kept._replace(weight_scale=p.weight_scale[: live.sum()]) if isinstance(p, QuantizedLinear) else kept


STRUCTURED = [
    Suite(
        structured.check_live_rows,
        live_rows,
        {
            "bias forgotten": weight_rows,
            "bias alone": lambda p: p.bias != 0,
            "sum not 0": lambda p: (p[0].sum(1) != 0) | (p.bias != 0),
            "-0 is not 0": lambda p: live_rows(p) | np.signbit(p.bias),
        },
    ),
    Suite(
        structured.check_live_columns,
        live_columns,
        {
            "sum not 0": lambda p: p[0].sum(0) != 0,
            "bias counted": lambda p: live_columns(p) | (p.bias != 0).any(),
        },
    ),
    Suite(
        structured.check_live_neurons,
        live_neurons,
        {
            "consumer alone": lambda layer: live_columns(layer.output),
            "producer alone": lambda layer: live_rows(layer.intermediate),
            "dead only if both are": lambda layer: live_rows(layer.intermediate) | live_columns(layer.output),
            "bias forgotten": lambda layer: weight_rows(layer.intermediate) & live_columns(layer.output),
        },
    ),
    Suite(
        structured.check_live_heads,
        live_heads,
        {
            "NNCF's rule": nncf,
            "nn_pruning's rule": nn_pruning,
            "whole sides": whole_sides,
            "every channel needed": lambda layer, heads: channels_of(layer).reshape(heads, -1).all(1),
            "heads interleaved": lambda layer, heads: channels_of(layer).reshape(-1, heads).any(0),
            "bias forgotten": head_without_bias,
        },
    ),
    Suite(
        structured.check_keep_rows,
        keep_rows,
        {
            "the first ones": lambda p, live: keep_rows(p, first(live)),
            "bias of the first ones": lambda p, live: keep_rows(p, live)._replace(bias=p.bias[: live.sum()]),
            "scales of the first ones": scales_of_the_first,
        },
    ),
    Suite(
        structured.check_keep_columns,
        keep_columns,
        {
            "the first ones": lambda p, live: keep_columns(p, first(live)),
            "another order of memory": lambda p, live: p._replace(**{p._fields[0]: np.asfortranarray(p[0][:, live])}),
        },
    ),
    Suite(
        structured.check_keep_neurons,
        keep_neurons,
        {
            "nothing removed": lambda layer, live: layer,
            "the first ones": lambda layer, live: neurons(layer, first(live), first(live)),
            "other rows than columns": lambda layer, live: neurons(layer, first(live), live),
            "constants removed too": constants_folded_away,
            "output requantized": then(keep_neurons, requantized, "output"),
            "output recalibrated": then(keep_neurons, recalibrated, "output"),
            "columns turned": then(keep_neurons, turned, "output"),
            "bias of output lost": then(keep_neurons, without_bias, "output"),
        },
    ),
    Suite(
        structured.check_keep_heads,
        keep_heads,
        {
            "nothing removed": lambda layer, heads, live: layer,
            "the first ones": heads_by(lambda live, e: first(live).repeat(e)),
            "heads interleaved": heads_by(np.tile),
            "q and k of other heads": queries_of_other_heads,
            "attention_output requantized": then(keep_heads, requantized, "attention_output"),
            "attention_output recalibrated": then(keep_heads, recalibrated, "attention_output"),
            "columns turned": then(keep_heads, turned, "attention_output"),
            "bias of q lost": then(keep_heads, without_bias, "q"),
        },
    ),
]
