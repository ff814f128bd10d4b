"""Rung 4: gradients. Oracle: central differences in f64, of every element; in f32 the backwards in f64.

For a function f of one number, D(h) = (f(x + h) - f(x - h)) / 2h is off by h**2 / 6 f''' and, beyond, by terms of h**4.
So D(h) - D(h / 2) shows three quarters of the error of D(h), and D(h / 2) has a third of what it shows left; all of it
is allowed. Rounding moves f by at most gamma(n) F, F the sum of the magnitudes of its terms, n the operations that one
passes, hence D(h / 2) by 2 gamma(n) F / h. Where f is not smooth (ReLU) no x is within h of the kink.
"""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_1_arithmetic import equal, rng
from tiny import GOLDEN, MODELS, batch, dense

from refimpl.bounds import F64, gamma
from refimpl.models.bert import cast, forward, map_linears
from refimpl.models.training.parameters import named
from refimpl.nn import Linear, Norm, attention, elementwise, embedding, gelu, losses, mean_pooling
from refimpl.nn.dropout import PLACES, STEPS, draw, dropout, threshold
from refimpl.nn.layernorm import layernorm, layernorm_backward
from refimpl.nn.linear import linear, linear_backward
from refimpl.nn.pooler import first_token, first_token_backward
from refimpl.nn.softmax import softmax, softmax_backward
from refimpl.nn.tape import Dropping, Tape, Value
from refimpl.prune import topk_mask
from refimpl.prune.masked_linear import MaskedLinear, masked_kind

H, OPERATIONS = 2.0**-9, 200
"""Terms of the functions here pass fewer operations than that."""


def differences(f, x):
    """The gradient of f at each element of x, and how far it may be off; f returns (value, sum of magnitudes)."""
    found, allowed = np.zeros(x.shape), np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        kept, slopes, size = x[at], [], 0.0
        for h in (H, H / 2):
            values = []
            for sign in (1, -1):
                x[at] = kept + sign * h
                value, magnitude = f()
                values.append(value)
                size = max(size, magnitude)
            slopes.append((values[0] - values[1]) / (2 * h))
        x[at] = kept
        found[at] = slopes[1]
        allowed[at] = abs(slopes[0] - slopes[1]) + 2 * gamma(OPERATIONS, F64) * (size + 1) / (H / 2)
    return found, allowed


def check_gradient(forward_, gradients, *inputs):
    """Of <dy, forward(inputs)> with random dy; ``gradients`` (dy) -> one an input."""
    dy = rng(99).normal(0, 1, np.shape(forward_()))

    def f():
        terms = dy * forward_()
        return terms.sum(), np.abs(terms).sum()

    for x, got in zip(inputs, gradients(dy), strict=True):
        want, allowed = differences(f, x)
        assert got.shape == x.shape
        assert (np.abs(got - want) <= allowed).all(), np.abs(got - want).max()


def normal(seed, *shape):
    return rng(seed).normal(0, 1, shape)


def check_linear(backward=linear_backward):
    x, p = normal(0, 2, 3, 5), Linear(normal(1, 4, 5), normal(2, 4))

    def gradients(dy):
        dx, d = backward(dy, x, p)
        return dx, *d

    check_gradient(lambda: linear(x, p), gradients, x, *p)


def check_layernorm(backward=layernorm_backward):
    x, p = normal(0, 2, 3, 6), Norm(normal(1, 6), normal(2, 6), 1e-3)

    def gradients(dy):
        dx, d = backward(dy, x, p)
        return dx, d.weight, d.bias

    check_gradient(lambda: layernorm(x, p), gradients, x, p.weight, p.bias)


def check_softmax(backward=softmax_backward):
    x = normal(0, 3, 5)
    check_gradient(lambda: softmax(x), lambda dy: [backward(dy, softmax(x))], x)


def check_gelu(backward=gelu.gelu_backward):
    x = np.array([-6.0, -2.5, -1.0, -0.1, 0.0, 0.3, 1.0, 2.5, 6.0])
    check_gradient(lambda: gelu.gelu(x), lambda dy: [backward(dy, x)], x)


def check_scores(backward=attention.attention_scores_backward):
    q, k, mask = normal(0, 2, 2, 3, 4), normal(1, 2, 2, 3, 4), np.ones((2, 3), int)
    check_gradient(lambda: attention.attention_scores(q, k, mask), lambda dy: backward(dy, q, k), q, k)


def check_context(backward=attention.attention_context_backward):
    probs, v = normal(0, 2, 2, 3, 3), normal(1, 2, 2, 3, 4)
    check_gradient(lambda: attention.attention_context(probs, v), lambda dy: backward(dy, probs, v), probs, v)


def check_embedding(backward=embedding.embedding_backward):
    ids, table = np.array([[0, 2, 0], [3, 0, 2]]), normal(0, 4, 3)
    check_gradient(lambda: embedding.embedding(ids, table), lambda dy: [backward(dy, ids, 4)], table)


def check_mean_pool(backward=mean_pooling.mean_pool_backward):
    x, mask = normal(0, 2, 3, 4), np.array([[1, 1, 0], [1, 0, 0]])
    check_gradient(lambda: mean_pooling.mean_pool(x, mask), lambda dy: [backward(dy, mask)], x)


def check_l2(backward=mean_pooling.l2_normalize_backward):
    x = normal(0, 2, 4)
    check_gradient(lambda: mean_pooling.l2_normalize(x), lambda dy: [backward(dy, x)], x)


CHECKS = [
    check_linear,
    check_layernorm,
    check_softmax,
    check_gelu,
    check_scores,
    check_context,
    check_embedding,
    check_mean_pool,
    check_l2,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_element(check):
    check()


def test_the_small_ones():
    x, table, tokens = normal(0, 2, 3), normal(1, 5, 3), normal(2, 2, 4, 3)
    check_gradient(lambda: np.tanh(x), lambda dy: [elementwise.tanh_backward(dy, np.tanh(x))], x)
    check_gradient(lambda: elementwise.relu(x), lambda dy: [elementwise.relu_backward(dy, x)], x)
    ids = np.zeros((2, 4), int)
    check_gradient(
        lambda: embedding.position_embedding(ids, table),
        lambda dy: [embedding.position_embedding_backward(dy, 5)],
        table,
    )
    check_gradient(lambda: first_token(tokens), lambda dy: [first_token_backward(dy, 4)], tokens)
    bias = normal(3, 1, 3)
    check_gradient(lambda: elementwise.add(tokens[0], bias), lambda dy: [elementwise.unbroadcast(dy, (1, 3))], bias)


# --- losses ----------------------------------------------------------------------------------------------------------


def check_loss(loss, x):
    def f():
        value = float(loss(x).value)
        return value, abs(value) + np.abs(x).max()

    want, allowed = differences(f, x)
    assert (np.abs(loss(x).gradient - want) <= allowed).all()


def check_torchs(loss, stem, *given):
    """The value and gradient of torch, f64, to eight roundings of numbers of size 1 (the loss) or below."""
    known = load_file(GOLDEN / "gradients" / "losses.safetensors")
    found = loss(*(known[name] if isinstance(name, str) else name(known) for name in given))
    assert abs(found.value - known[stem + "value"]) <= 8 * F64 * known[stem + "value"]
    assert (np.abs(found.gradient - known[stem + "gradient"]) <= 8 * F64).all()


def places(name):
    """Tokens, -1 for what lies outside a text."""
    return lambda known: np.where(known[name] < known["logits"].shape[1], known[name], -1)


def check_cross_entropy(loss=losses.cross_entropy):
    check_loss(lambda x: loss(x, np.array([[1, -100], [2, 0]])), normal(0, 2, 2, 3))
    check_torchs(loss, "", "x", "labels")


def check_answers(loss=losses.question_answering):
    mask, starts, ends = np.array([[1, 1, 1, 0], [1, 1, 1, 1]]), np.array([0, -1]), np.array([2, 3])
    check_loss(lambda x: loss(x, mask, starts, ends), normal(0, 2, 4, 2))
    everything = np.ones((3, 6), int)
    check_torchs(loss, "answers.", "logits", lambda _: everything, places("starts"), places("ends"))


def test_losses():
    check_cross_entropy()
    check_answers()
    nothing = losses.cross_entropy(normal(0, 2, 3), np.array([-1, -1]))
    assert (float(nothing.value), np.abs(nothing.gradient).max()) == (0, 0)
    with pytest.raises(ValueError, match="labels has 3; need at most 2"):
        losses.cross_entropy(normal(0, 2, 3), np.array([0, 3]))


# --- the tape --------------------------------------------------------------------------------------------------------


def leaves(tree, name=""):
    """The float arrays of a model by path; a shared one under its first name."""
    if isinstance(tree, np.ndarray):
        yield name, tree
    elif isinstance(tree, tuple):
        for i, part in enumerate(tree):
            yield from leaves(part, f"{name}.{getattr(tree, '_fields', range(len(tree)))[i]}")


def parameters(model):
    return dict(leaves((model.embeddings, model.layers, model.head)))


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_along_random_directions(name):
    """Each array of parameters along one direction, with all others held still."""
    model, texts = cast(dense(name).model, np.float64), batch(name)
    dy = normal(0, *forward(model, texts).shape)

    def f():
        terms = dy * forward(model, texts)
        return terms.sum(), np.abs(terms).sum()

    tape = Tape()
    y = forward(model, texts, tape.ops)
    equal(y.data, forward(model, texts))
    gradients = tape.backward([(y, dy)])
    for place, array in parameters(model).items():
        got = gradients.get(id(array))
        direction, kept = normal(1, *array.shape), array.copy()
        scale = np.zeros(1)

        def along(array=array, kept=kept, direction=direction, scale=scale):
            array[...] = kept + scale[0] / 8 * direction
            value, size = f()
            return value, 100 * size

        want, allowed = differences(along, scale)
        array[...] = kept
        found = 0.0 if got is None else (got * direction).sum() / 8
        assert abs(found - want[0]) <= allowed[0], place


def tied(model):
    """With the word table as its decoder's weight, as in the checkpoint; ``cast`` makes two."""
    return replace(model, head=model.head._replace(decoder=Linear(model.embeddings.word, model.head.decoder.bias)))


def gradients_of(model, texts, dy, **kinds):
    tape = Tape(**kinds)
    return tape.backward([(forward(model, texts, tape.ops), dy)])


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_is_torchs(name):
    """Every element, in f64, against autograd's rounded to f32.

    Rounding errors are linear in the unit of rounding, so what the same gradient is off in f32 (the largest of its
    array) says what two passes in f64 may differ by: 2**-29 of it, times 64 for another order of summation.
    """
    known = load_file(GOLDEN / name / "gradients.safetensors")
    dy, model = known.pop("dy"), dense(name).model
    wide = cast(model, np.float64)
    if name.endswith("masked_lm"):
        wide = tied(wide)
    by_id, by_id_f32 = gradients_of(wide, batch(name), dy), gradients_of(model, batch(name), dy.astype(np.float32))
    names, names_f32 = named(wide), named(model)
    assert {key for key, x in names.items() if id(x) in by_id} == set(known)
    for key, want in known.items():
        got, rough = by_id[id(names[key])], by_id_f32[id(names_f32[key])]
        allowed = 2.0**-24 * np.abs(want) + 64 * 2.0**-29 * np.abs(rough - got).max() + 2.0**-140
        assert got.dtype == np.float64
        assert (np.abs(got - want) <= allowed).all(), key


def check_masked(kind=masked_kind):
    """Beside a plain model with the masked weights: the same pass, and the gradients of what is not masked."""
    model, texts = dense("bert_classification").model, batch("bert_classification")

    def mask(p):
        return topk_mask(np.abs(p.weight), 0.3)

    masked = map_linears(model, lambda _, p: MaskedLinear(*p, mask(p)))
    plain = map_linears(model, lambda _, p: Linear(p.weight * mask(p), p.bias))
    tape, dy = Tape(linears={MaskedLinear: kind()}), normal(0, 3, 3).astype(np.float32)
    y = forward(masked, texts, tape.ops)
    equal(y.data, forward(plain, texts))
    found, want = tape.backward([(y, dy)]), gradients_of(plain, texts, dy)
    for layer, other in zip(masked.layers, plain.layers, strict=True):
        for part in ("q", "output"):
            p, q = getattr(layer, part), getattr(other, part)
            equal(found[id(p.weight)], np.where(p.mask, want[id(q.weight)], 0))
            equal(found[id(p.bias)], want[id(q.bias)])


def test_masked_linear_layers():
    check_masked()


def test_a_shared_parameter_has_one_gradient():
    model, texts = dense("distilbert_masked_lm").model, batch("distilbert_masked_lm")
    once_there, bias = tied(model), model.head.decoder.bias
    apart = replace(model, head=model.head._replace(decoder=Linear(model.embeddings.word.copy(), bias)))
    found = []
    for one in (once_there, apart):
        tape = Tape()
        y = forward(one, texts, tape.ops)
        found.append(tape.backward([(y, np.ones_like(y.data))]))
    once = found[0][id(model.embeddings.word)]
    equal(once, found[1][id(apart.head.decoder.weight)] + found[1][id(apart.embeddings.word)])


def test_several_ends_add_up():
    x, p = normal(0, 2, 3), Linear(normal(1, 3, 3), normal(2, 3))
    tape = Tape()
    given = Value(x)
    y = tape.ops.linear(given, p)
    z = tape.ops.tanh(y)
    dy, dz = normal(3, 2, 3), normal(4, 2, 3)
    got = tape.backward([(y, dy), (z, dz)])[id(p.bias)]
    equal(got, (dy + elementwise.tanh_backward(dz, z.data)).sum(0))


def test_another_type_of_linear_layer_must_be_known():
    with pytest.raises(TypeError, match="a linear layer is Norm; need Linear"):
        Tape().ops.linear(None, Norm(np.ones(1), np.ones(1), 1.0))


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout():
    keep = draw((1000, 1000), 0.1, rng(0))
    share = STEPS / (STEPS - threshold(0.1))
    assert abs(keep.mean() - 1 / share) < 5 * (0.1 * 0.9) ** 0.5 / 1000  # five standard deviations
    x = normal(1, 1000, 1000).astype(np.float32)
    y = dropout(x, keep, 0.1)
    equal(y == 0, ~keep)
    equal(y[keep], (x * np.float32(share))[keep])
    equal(draw((3, 5), 0.5, rng(7)), draw((3, 5), 0.5, rng(7)))
    assert draw((100,), 0.0, rng(0)).all()
    with pytest.raises(ValueError, match="p is 1; need a number from 0 to below 1"):
        threshold(1)


def test_dropout_is_where_bert_has_it():
    """The places of a pass that are dropped: three a layer, and the embeddings and the pooler."""
    model, texts = dense("bert_classification").model, batch("bert_classification")
    tape, seen = Tape(), []
    tape.dropout = lambda x, p, generator: seen.append(p) or x
    forward(model, texts, tape.ops, Dropping(tape, 0.25, rng(0)))
    assert seen == [0.25] * (2 + 3 * model.config.layers)
    assert set(PLACES) == {"embeddings", "probs", "attention_output", "output", "pooler"}
