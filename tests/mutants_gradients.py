"""Plausible wrong gradients: terms that are forgotten, derivatives of another formula. See tests/mutants.py."""

import numpy as np
import test_4_gradients as gradients
import test_5_training_products as products
from mutants import Suite

from refimpl.kernels.training import linear as kernels
from refimpl.nn import Linear, Norm
from refimpl.nn import losses as loss
from refimpl.nn.attention import attention_context_backward, attention_scores_backward
from refimpl.nn.embedding import embedding_backward
from refimpl.nn.gelu import CUBIC, SQRT_2_OVER_PI, gelu_backward
from refimpl.nn.layernorm import layernorm_backward
from refimpl.nn.linear import linear_backward
from refimpl.nn.losses import Loss
from refimpl.nn.mean_pooling import l2_normalize_backward, mean_pool_backward
from refimpl.nn.softmax import softmax_backward
from refimpl.nn.tape import LinearKind
from refimpl.prune.masked_linear import masked_kind


def layernorm(mean=1, product=1, weighted=True, eps=1):
    """With a term left out, or the weight, or eps."""

    def mutant(dy, x, p):
        centred = x - x.mean(-1, keepdims=True)
        root = np.sqrt((centred * centred).mean(-1, keepdims=True) + eps * p.eps)
        normalized, g = centred / root, dy * p.weight if weighted else dy
        parts = mean * g.mean(-1, keepdims=True) + product * normalized * (g * normalized).mean(-1, keepdims=True)
        tokens = tuple(range(x.ndim - 1))
        return (g - parts) / root, Norm((dy * normalized).sum(tokens), dy.sum(tokens), p.eps)

    return mutant


def gelu_tanh_backward(dy, x):
    inner = SQRT_2_OVER_PI * (x + CUBIC * x**3)
    slope = SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x)
    return dy * (0.5 * (1 + np.tanh(inner)) + 0.5 * x * (1 - np.tanh(inner) ** 2) * slope)


def scatter(dy, ids, rows):
    table = np.zeros((rows, dy.shape[-1]))
    table[ids] = dy
    return table


def sums_of_first_row(dy, x, p):
    dx, d = linear_backward(dy, x, p)
    return dx, Linear(d.weight, dy.reshape(-1, dy.shape[-1])[0])


def transposed_weights(dy, x, p):
    dx, d = linear_backward(dy, x, p)
    return dx, Linear(d.weight[::-1], d.bias)


def unscaled(dscores, q, k):
    return dscores @ k, dscores.swapaxes(-1, -2) @ q


def twice_scaled(dscores, q, k):
    return attention_scores_backward(dscores / q.shape[-1] ** 0.5, q, k)


def not_transposed(dcontext, probs, v):
    return dcontext @ v.swapaxes(-1, -2), probs @ dcontext


def mean_of_all(x, labels):
    """The ignored ones count."""
    found, share = loss.cross_entropy(x, labels), (labels >= 0).mean()
    return Loss(found.value * share, found.gradient * share)


def value_only(x, labels):
    """A gradient that is not divided."""
    found = loss.cross_entropy(x, labels)
    return Loss(found.value, found.gradient * (labels >= 0).sum())


def sum_of_ends(*given):
    found = loss.question_answering(*given)
    return Loss(found.value, 2 * found.gradient)


def over_padding(x, mask, starts, ends):
    """Beside the right value, the gradient of a softmax over padding, too."""
    right = loss.question_answering(x, mask, starts, ends)
    return Loss(right.value, loss.question_answering(x, np.ones_like(mask), starts, ends).gradient)


def straight_through():
    """A gradient for pruned weights, too."""
    true = masked_kind()

    def back(dy, kept):
        x, p, effective = kept
        dx, d = linear_backward(dy, x, effective)
        return dx, [(p.weight, d.weight), (p.bias, d.bias)]

    return LinearKind(true.forward, back)


def through_whole_weights():
    """The input's gradient by the weight without its mask."""
    true = masked_kind()

    def back(dy, kept):
        _, p, _ = kept
        return (dy @ p.weight), true.backward(dy, kept)[1]

    return LinearKind(true.forward, back)


def by_numpy(a, b, out, scale, added):
    out[...] = np.float32(scale) * (a @ b) + added[:, None, None]


def scaled_after(a, b, out, scale, added):
    out[...] = np.float32(scale) * (a @ b + added[:, None, None])


def added_by_row(a, b, out, scale, added):
    out[...] = np.float32(scale) * (a @ b) + added[::-1][:, None, None]


def check_products_of_heads(implementation):
    products.check_multiply(implementation)


def check_linear_kernels(implementation):
    products.check_linear_backward(implementation, (13, 70, 100))


def native(dy, x, p):
    return kernels.linear_backward(lambda source, *given: source.emulated(*given), dy, x, p)


def dropped_tail(dy, x, p):
    """Without the last row, which fills no tile."""
    return native(np.concatenate([dy[:-1], 0 * dy[-1:]]), x, p)


GRADIENTS = [
    Suite(
        gradients.check_linear,
        linear_backward,
        {"bias of one row": sums_of_first_row, "rows turned round": transposed_weights},
    ),
    Suite(
        gradients.check_layernorm,
        layernorm_backward,
        {
            "no mean": layernorm(mean=0),
            "no product": layernorm(product=0),
            "no weight": layernorm(weighted=False),
            "no eps": layernorm(eps=0),
        },
    ),
    Suite(
        gradients.check_softmax,
        softmax_backward,
        {"diagonal only": lambda dy, y: dy * y * (1 - y), "no sum": lambda dy, y: dy * y},
    ),
    Suite(
        gradients.check_gelu,
        gelu_backward,
        {"of tanh's": gelu_tanh_backward, "ReLU's": lambda dy, x: dy * (x > 0)},
    ),
    Suite(
        gradients.check_scores,
        attention_scores_backward,
        {"no scale": unscaled, "scale twice": twice_scaled},
    ),
    Suite(gradients.check_context, attention_context_backward, {"not transposed": not_transposed}),
    Suite(gradients.check_embedding, embedding_backward, {"the last one only": scatter}),
    Suite(
        gradients.check_mean_pool,
        mean_pool_backward,
        {"over padding": lambda dy, mask: mean_pool_backward(dy, np.ones_like(mask))},
    ),
    Suite(
        gradients.check_l2,
        l2_normalize_backward,
        {"norm constant": lambda dy, x: dy / np.sqrt((x * x).sum(-1, keepdims=True))},
    ),
    Suite(
        gradients.check_cross_entropy,
        loss.cross_entropy,
        {"mean over all": mean_of_all, "not divided": value_only},
    ),
    Suite(
        gradients.check_answers,
        loss.question_answering,
        {"not halved": sum_of_ends, "padding": over_padding},
    ),
    Suite(
        gradients.check_masked,
        masked_kind,
        {"pruned weights learn": straight_through, "whole weights": through_whole_weights},
    ),
    Suite(
        check_products_of_heads,
        by_numpy,
        {"added before the scale": scaled_after, "another text's": added_by_row},
    ),
    Suite(check_linear_kernels, native, {"dropped tail": dropped_tail}),
]
