"""Plausible wrong counts of what a recipe saves, and leads of an answer. tests/test_mutants.py runs them."""

from mutants import Suite
from test_7_recipe_engines import check_leading
from test_7_recipe_files import check_encoder_bytes

from refimpl.models.bert import linears
from refimpl.models.recipes.artifacts import encoder_bytes
from refimpl.models.training.evaluation import Answer, leading


def before_of_what_is_left(config, model):
    shapes = [shape for i in range(config.layers) for shape in config.linear_shapes(i).values()]
    return encoder_bytes(config, model)._replace(before=sum(4 * (m * k + m) for m, k in shapes))


def without_biases(config, model):
    found, biases = encoder_bytes(config, model), sum(p.bias.nbytes for p in linears(model).values())
    return found._replace(dense=found.dense - biases, blocks=found.blocks - biases, after=found.after - biases)


def with_compensation(config, model):
    found, sums = encoder_bytes(config, model), sum(p.bias.nbytes for p in linears(model).values())
    return found._replace(blocks=found.blocks + sums)


def one_form_for_all(config, model):
    found = encoder_bytes(config, model)
    return found._replace(after=min(found.dense, found.blocks))


ENCODER_BYTES = Suite(
    check_encoder_bytes,
    encoder_bytes,
    {
        "before, with the heads that are left": before_of_what_is_left,
        "biases do not count": without_biases,
        "compensation counts, which is not stored": with_compensation,
        "one form for all layers": one_form_for_all,
    },
)


def the_next_span(answers):
    ordered = sorted(answers, key=lambda answer: -answer[0])
    return (
        Answer(ordered[0][1], ordered[0][0] - ordered[1][0] if len(ordered) > 1 else None) if ordered else leading([])
    )


LEADING = Suite(
    check_leading,
    leading,
    {
        "the same text of another window is another answer": the_next_span,
        "of equal ones the last": lambda answers: leading(answers[::-1]),
        "no other answer is a lead of 0": lambda answers: leading(answers)._replace(
            margin=leading(answers).margin or 0.0
        ),
    },
)
RECIPE_FILES = [ENCODER_BYTES, LEADING]
