"""What the stages of a recipe do around each pass: locks, gradual pruning, movement, distillation; and that each goes
on after a stop at any update with the same bits. Oracles: the formulas of ``refimpl.prune`` and ``refimpl.distil``.
"""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import tiny

from refimpl import distil
from refimpl.distil.mixing import ovtrainer
from refimpl.models.bert import Batch, cast, forward, linears, map_linears
from refimpl.models.pruning import hybrid, movement
from refimpl.models.pruning.names import names_in
from refimpl.models.quantization.learned import prepare
from refimpl.models.recipes import beginning, methods
from refimpl.models.recipes import hybrid as nn_pruning
from refimpl.models.recipes import teacher as beside
from refimpl.models.recipes.beginning import begin, taught
from refimpl.models.recipes.distilling import distilled, distilled_beside, teach
from refimpl.models.recipes.kinds import CHOICES, Distillation, FineTune, Hybrid, Movement
from refimpl.models.recipes.matching import matched, meeting, pairs
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.setting import Setting, work_on
from refimpl.models.recipes.teacher import asker
from refimpl.models.recipes.training_stage import rate_of
from refimpl.models.training import checkpoint
from refimpl.models.training.inner import Keep
from refimpl.models.training.loop import Settings, Updated, train
from refimpl.models.training.method import PLAIN, masked, masked_backward
from refimpl.models.training.optimizer import Optimizer
from refimpl.models.training.parameters import named, with_parameters
from refimpl.models.training.schedule import linear
from refimpl.models.training.show import Bar
from refimpl.models.training.task import How, Task, job
from refimpl.nn import REFERENCE, Recorder
from refimpl.nn.adamw import AdamW
from refimpl.nn.losses import cross_entropy, question_answering
from refimpl.nn.softmax import log_softmax, softmax
from refimpl.nn.tape import Tape
from refimpl.prune import movement_schedule
from refimpl.prune.criteria import snip_momentum_inc_code
from refimpl.prune.movement import regularization_backward
from refimpl.prune.schedules import zhu_gupta_cubic
from refimpl.quant.fake_linear import FakeQuantizedLinear, fake_quantized_kind

DENSE = tiny.dense("bert_classification")
MODEL = DENSE.model
ROWS, SIZE, SEED, ACCUMULATE = 12, 2, 5, 2
EACH, EPOCHS = 3, 4
"""Updates of an epoch, when two batches make one."""
UPDATES = EACH * EPOCHS
IDS = [np.random.default_rng(i).integers(1, tiny.TOKENS, 3 + i % 5) for i in range(ROWS)]


def encoded(rows, more=0):
    """A batch, with so many tokens of padding beyond the longest row."""
    ids = np.zeros((len(rows), max(len(IDS[i]) for i in rows) + more), np.int64)
    for row, i in zip(ids, rows, strict=True):
        row[: len(IDS[i])] = IDS[i]
    return Batch(ids, (ids > 0).astype(np.int64), np.zeros_like(ids))


TASK = Task(
    "classification", MODEL.config.labels, [len(row) for row in IDS],
    lambda rows, generator: (encoded(rows), np.array(rows) % 3),
    lambda y, batch, target: cross_entropy(y, target),
    lambda model: {"size": float(np.abs(forward(model, encoded([0, 1]))).sum())}, "",
)  # fmt: skip
QUESTIONS = tiny.dense("bert_question_answering").model
ASKED = TASK._replace(
    head="question_answering",
    loss=lambda y, batch, target: question_answering(y, batch.mask, target % 3, target % 2 + 1),
)


def tape():
    return Tape(linears={FakeQuantizedLinear: fake_quantized_kind()})


def training(method, model=MODEL, accumulate=ACCUMULATE, rate=0.02):
    """Job, settings and first state."""
    total = EPOCHS * -(-ROWS // SIZE // accumulate)
    work = job(TASK, model, How(SIZE, SEED, 0.1, tape, method))
    settings = Settings(EPOCHS, rate, linear(total, 1), Optimizer(AdamW(decay=0.01)), seed=SEED, accumulate=accumulate)
    return work, settings, checkpoint.begin({**named(model), **method.trained}, method.extra)


def frozen_copy(state):
    """Parameters and extra arrays as they are now."""
    return {name: array.copy() for name, array in {**state.parameters, **state.extra}.items()}


def steps(method, **how):
    """Values before each update, and after the last."""
    work, settings, state = training(method, **how)
    found = [frozen_copy(state)]
    for event in train(work, settings, state):
        if isinstance(event, Updated):
            found.append(frozen_copy(event.state))
    return found


NAMES = names_in(named(MODEL), MODEL)
WEIGHTS = [NAMES[f"{name}.weight"] for name in linears(MODEL)]


# --- masks, locks, gradual pruning -----------------------------------------------------------------------------------


def check_masked_backward(function):
    g = np.float32([1, 2, 3])
    found = function({"a": g, "b": g}, {"a": np.array([True, False, True])})
    np.testing.assert_array_equal(found["a"], [1, 0, 3])
    assert found["b"] is g


def holed():
    """In q of the first layer a block of zeros, a zero alone, a block whose sum is 0; a row that is zero with its bias,
    one whose bias is alive, and a bias alone."""

    def change(name, p):
        if name != "layer.0.q":
            return p
        weight = p.weight.copy()
        weight[:4, 0] = weight[5, 1] = 0
        weight[8:12, 2] = 1, -1, 2, -2
        bias = np.where(np.arange(len(p.bias)) < 20, p.bias, 0).astype(np.float32)
        weight[16:18] = bias[16] = 0
        bias[17] = 1
        return p._replace(weight=weight, bias=bias)

    return map_linears(MODEL, change)


def check_locked(function):
    model = holed()
    names = names_in(named(model), model)
    method = function(model, names)
    before, *_, after = steps(method, model=model)
    after = masked(after, method.stored(after))
    name = names["layer.0.q.weight"]
    np.testing.assert_array_equal(after[name] != 0, before[name] != 0)
    assert after[name][8:12, 2].all()
    bias = names["layer.0.q.bias"]
    assert after[bias][16] == 0
    assert after[bias][17] not in (0, before[bias][17])
    assert after[bias][20:].all()
    assert all((after[other] != before[other]).any() for other in names.values())


HOW = Prune(epochs=EPOCHS, sparsity=0.625, begin=0.25, end=0.85, every=3)
"""Events at 3, 6 and 9 of 12 updates."""


def masks(values):
    return {name: values[methods.MASK + name] for name in WEIGHTS}


def pruned(values):
    return methods.share(masks(values))


def check_pruning(function):
    for kind in ("prune-ofa", "inc"):
        found = steps(function(MODEL, NAMES, replace(HOW, method=kind), UPDATES))
        changed = [
            i + 1
            for i, (a, b) in enumerate(pairwise(found))
            if any((masks(a)[n] != masks(b)[n]).any() for n in WEIGHTS)
        ]
        assert changed == [6, 9], kind
        assert pruned(found[-1]) == HOW.sparsity
        noted = found[-1][methods.SPARSITY]
        assert np.flatnonzero(~np.isnan(noted)).tolist() == [0, 3, 6, 9]
        assert [noted[i] for i in (3, 6, 9)] == [pruned(found[i]) for i in (3, 6, 9)]
        for name, mask in masks(found[-1]).items():
            blocks = mask.reshape(-1, 4, mask.shape[1])
            assert (blocks.all(1) | ~blocks.any(1)).all(), name
            if kind == "prune-ofa":
                assert 1 - mask.mean() == HOW.sparsity


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (0.99, 1.0), (0.0, 0.01)])
@pytest.mark.parametrize("kind", ["one-shot", "prune-ofa", "inc", "movement"])
def test_the_whole_sparsity_is_reached_whatever_the_shares(kind, begin, end):
    how = replace(HOW, method=kind, begin=begin, end=end, every=50)
    make = methods.top_scores if kind == "movement" else methods.pruning
    assert pruned(steps(make(MODEL, NAMES, how, UPDATES))[-1]) == HOW.sparsity


FORMULAS = {
    "zhu_gupta_cubic": lambda r: HOW.sparsity * (1 - (1 - r) ** 3),
    "inc_exp": lambda r: 1 - (1 - HOW.sparsity) ** r,
    "inc_cos": lambda r: HOW.sparsity * (1 - np.cos(r * np.pi / 2)),
    "inc_linear": lambda r: HOW.sparsity * r,
    "inc_cube": lambda r: HOW.sparsity * r**3,
}
BLOCK = 4 / 32**2
"""The share of a block in the smallest layer: where a formula ends an ulp below the whole, one less is pruned."""


def check_ways(function):
    """Each schedule is its formula, each ranking as it says, with any criterion; the last event has the whole."""
    for i, (schedule, ranking) in enumerate(product(CHOICES["schedule"], CHOICES["ranking"])):
        way = {
            "criterion": CHOICES["criterion"][i % len(CHOICES["criterion"])],
            "schedule": schedule,
            "ranking": ranking,
        }
        last = steps(function(MODEL, NAMES, replace(HOW, **way), UPDATES))[-1]
        found, formula = last[methods.SPARSITY][[3, 6, 9]], FORMULAS[schedule]
        np.testing.assert_allclose(found, [formula(r) for r in (0, 0.5, 1)], atol=BLOCK, err_msg=f"{way}")
        alike = all(abs(1 - mask.mean() - HOW.sparsity) <= BLOCK for mask in masks(last).values())
        assert alike == (ranking == "layer"), way
    top = steps(methods.top_scores(MODEL, NAMES, replace(TOP, schedule="inc_cube", every=3), UPDATES))
    assert pruned(top[6]) == pytest.approx(FORMULAS["inc_cube"](2 / 3), abs=BLOCK)


def test_a_criterion_of_gradients_waits_for_one():
    how = replace(HOW, method="one-shot", begin=0.0)
    for criterion in CHOICES["criterion"]:
        found = steps(methods.pruning(MODEL, NAMES, replace(how, criterion=criterion), UPDATES))
        assert [pruned(values) for values in found[:2]] == [HOW.sparsity * (criterion == "magnitude"), HOW.sparsity]


def check_rates(function):
    """As the plain schedule without ``rewind``; with it the saw between the events."""
    assert function(HOW, UPDATES) is None
    assert function(FineTune(epochs=1), UPDATES) is None
    rate = function(replace(HOW, rewind=True, warmup=1 / UPDATES), UPDATES)
    assert rate is not None
    found = [rate(step) for step in range(UPDATES)]
    # 12 updates, 1 of warm-up, events at 3, 6 and 9: as long as 6 updates, and 5 of them fall
    assert found == pytest.approx([0, 1, 0.8, 0.6, 0.4, 0.2, 0.6, 0.4, 0.2, 0.6, 0.4, 0.2])


def check_criteria(function):
    """What is kept: 0.9 of what was, and |w dw| of the pass; or |w dw|, or |dw|, of the last pass alone."""
    for name, formula in {
        "snip_momentum": snip_momentum_inc_code,
        "snip": lambda kept, w, dw: np.abs(w * dw),
        "gradient": lambda kept, w, dw: np.abs(dw),
        "movement": lambda kept, w, dw: kept - w * dw,
        "magnitude": lambda kept, w, dw: kept,
    }.items():
        check_kept(function, name, formula)


def check_kept(function, criterion, formula):
    method = function(MODEL, NAMES, replace(HOW, criterion=criterion), UPDATES)
    work, _, state = training(method)
    plain, _, _ = training(PLAIN)
    values, kept = {**state.parameters, **state.extra}, dict.fromkeys(WEIGHTS, np.float32(0))
    for i in range(2):
        found = [each.gradients(values, [i, 4], np.random.default_rng(i)) for each in (work, plain)]
        assert found[0][0] == found[1][0]
        for name in WEIGHTS:
            kept[name] = formula(np.broadcast_to(kept[name], values[name].shape), values[name], found[1][1][name])
            np.testing.assert_array_equal(values[methods.KEPT + name], kept[name])


def test_masks():
    check_masked_backward(masked_backward)
    check_locked(methods.locked)
    check_pruning(methods.pruning)
    check_ways(methods.pruning)
    check_criteria(methods.pruning)
    check_rates(rate_of)


# --- movement: the highest scores ------------------------------------------------------------------------------------

TOP = replace(HOW, method="movement", begin=0.0, end=0.85, every=1)


def check_top_scores(function):
    """The density is the cubic schedule's, each layer alike, though scores tie at first; a score's gradient does not
    see the mask."""
    for every, last in ((3, 9), (TOP.every, 10)):
        method = function(MODEL, NAMES, replace(TOP, every=every), UPDATES)
        found = steps(method)
        for step, values in enumerate(found):
            event = min(step // every * every, last)
            density = 1 - zhu_gupta_cubic(event, 0, last, 0.0, TOP.sparsity)
            for mask in masks(values).values():
                assert mask.sum() == 4 * int(density * (mask.size // 4)), step
            noted = values[methods.SPARSITY][step]
            assert noted == pruned(values) if event == step else np.isnan(noted)
    values = found[8]
    assert 0.4 < pruned(values) < 1
    work, _, _ = training(method)
    _, gradients = work.gradients(values, [1, 2], np.random.default_rng(0))
    plain, _, _ = training(PLAIN)
    _, seen = plain.gradients(masked(values, masks(values)), [1, 2], np.random.default_rng(0))
    for name in WEIGHTS:
        product = (seen[name] * values[name]).reshape(-1, 4, values[name].shape[1])
        np.testing.assert_array_equal(gradients[methods.SCORE + name], product.sum(1))
        np.testing.assert_array_equal(gradients[name], seen[name] * masks(values)[name])
        kept = masks(values)[name][::4]
        scores = values[methods.SCORE + name]
        assert scores[kept].min() >= scores[~kept].max()


# --- movement: NNCF's ------------------------------------------------------------------------------------------------

MOVE = Movement(
    epochs=EPOCHS, warmup_start_epoch=1, warmup_end_epoch=2.7, factor=0.5, final_threshold=0.02, block=(8, 8)
)
SCHEDULE = movement_schedule.MovementSchedule(1, 2.7, EACH, 0.5, 0.02)
LAST = 8
"""The first step after the warm-up."""


def moving(model=MODEL, **change):
    return methods.moving(model, names_in(named(model), model), replace(MOVE, **change), EACH, UPDATES)


FACTORS = movement.factors_of(MODEL, movement.jpqd(MOVE.block))


def scores(values):
    return {ours: values[methods.SCORE + NAMES[ours]] for ours in FACTORS}


def check_schedule(function):
    """Threshold and factor of each update are the schedule's, of any power, from the first threshold given or found."""
    for power, initial in ((3.0, None), (4.5, -0.05)):
        how = replace(MOVE, power=power, initial_threshold=initial)
        found = steps(function(MODEL, NAMES, how, EACH, UPDATES))
        first = movement.automatic_threshold(scores(found[EACH]), FACTORS) if initial is None else initial
        schedule = SCHEDULE._replace(power=power)
        for step, values in enumerate(found):
            cut, factor, _ = values[methods.THRESHOLD]
            assert cut == movement_schedule.threshold(schedule, step, first)
            rests = np.isnan(factor) and step >= LAST
            assert rests or factor == movement_schedule.regularization_factor(schedule, step)
            assert values[methods.SPARSITY][min(step, LAST)] == methods.share(methods.stored(values))
        assert methods.frozen(found[LAST])
        assert not methods.frozen(found[LAST - 1])
        assert np.isnan(found[-1][methods.SPARSITY][LAST + 1 :]).all()
        assert 0.1 < found[-1][methods.SPARSITY][LAST] < 0.9


def test_after_the_warm_up_masks_are_whole_and_scores_rest():
    found, loose = steps(moving()), steps(moving(structured=False))
    last = {ours: loose[LAST][methods.MASK + name] for ours, name in NAMES.items()}
    want = movement.resolved(MODEL, last)
    assert any((want[ours] != last[ours]).any() for ours in want)
    for ours, name in NAMES.items():
        np.testing.assert_array_equal(found[LAST][methods.MASK + name], want[ours])
        for run in (found, loose):
            assert all((run[LAST][kind + name] == run[-1][kind + name]).all() for kind in (methods.MASK, methods.SCORE))
    assert all((found[LAST][name] != found[-1][name]).any() for name in WEIGHTS)


def check_moving(function):
    """The gradient of scores: of the masked weight times the whole weight, a block; and the regularization's share."""
    method = function(MODEL, NAMES, MOVE, EACH, UPDATES)
    values = steps(method)[LAST - 1]
    work, _, _ = training(method)
    loss, gradients = work.gradients(values, [1, 2], np.random.default_rng(0))
    own = method.masks(values)
    assert any(not mask.all() for mask in own.values())
    plain, _, _ = training(PLAIN)
    task, seen = plain.gradients(masked(values, own), [1, 2], np.random.default_rng(0))
    factor = movement_schedule.regularization_factor(SCHEDULE, LAST - 1)
    added, _ = movement.regularization_loss(scores(values), FACTORS, factor)
    assert loss == task + added
    for ours, block in FACTORS.items():
        name = NAMES[ours]
        product = seen[name] * values[name]
        grid = product.reshape(
            [n for size, part in zip(product.shape, block, strict=True) for n in (size // part, part)]
        )
        total = grid.sum(tuple(range(1, 2 * len(block), 2)))
        pull = regularization_backward(scores(values)[ours], block, factor / len(linears(MODEL)))
        np.testing.assert_array_equal(gradients[methods.SCORE + name], total + pull)
        np.testing.assert_array_equal(gradients[name], seen[name] * own[name])


def test_movement():
    check_top_scores(methods.top_scores)
    check_schedule(methods.moving)
    check_moving(methods.moving)
    check_hybrid(nn_pruning.learned)


# --- movement: nn_pruning's ------------------------------------------------------------------------------------------

OWN = Hybrid(epochs=EPOCHS, warmup=1 / UPDATES, factor=30.0, final_threshold=0.49, block=(8, 8))
"""Of 12 updates one rests at the begin, two at the end."""


def check_hybrid(function):
    """Threshold and factor rise together on the cubic; masks, gradients and loss are those of ``pruning.hybrid``; what
    is not learned yet is whole; evaluation has the masks of the next pass; filled heads are whole."""
    heads = {f"layer.{i}": np.arange(4) == i for i in range(2)}
    for kept in (None, heads):
        method = function(MODEL, NAMES, OWN, UPDATES, kept)
        found = steps(method)
        for step, values in enumerate(found):
            left = np.clip(1 - (step - 1) / 9, 0, 1) ** 3
            assert values[methods.THRESHOLD] == pytest.approx([0.49 * (1 - left), 30 * (1 - left)], abs=1e-12), step
            assert values[methods.SPARSITY][step] == methods.share(method.masks(values))
        assert 0.05 < found[-1][methods.SPARSITY][-1] < 0.95
        values = found[8]
        begun = hybrid.initial_scores(MODEL, (8, 8))
        scores = {name: values[methods.SCORE + name.removesuffix(".weight")] for name in begun}
        assert not any(np.array_equal(each, np.zeros_like(each)) for each in scores.values())
        cut, factor = values[methods.THRESHOLD].tolist()
        want, own = hybrid.masks_of(scores, cut, (8, 8), kept), method.masks(values)
        for ours, name in NAMES.items():
            np.testing.assert_array_equal(own[name], np.broadcast_to(want[ours], values[name].shape))
            np.testing.assert_array_equal(own[name], method.stored(values)[name])
        assert not all(mask.all() for mask in own.values())
        work, plain = training(method)[0], training(PLAIN)[0]
        loss, gradients = work.gradients(values, [1, 2], np.random.default_rng(0))
        task, seen = plain.gradients(masked(values, own), [1, 2], np.random.default_rng(0))
        pulled, pull = hybrid.regularization_loss(scores, factor)
        assert loss == task + pulled
        ours = ({name: each[NAMES[name]] for name in want} for each in (seen, values))
        made, learned = hybrid.effective_backward(*ours, want, (8, 8))
        for name, g in learned.items():
            np.testing.assert_array_equal(gradients[methods.SCORE + name.removesuffix(".weight")], g + pull[name])
        for name, g in made.items():
            np.testing.assert_array_equal(gradients[NAMES[name]], g)


def check_to_fill(function):
    """By nn_pruning's rule, of the heads that the first run began with, whatever is gone since."""
    begun = work_on(DENSE)

    def change(name, p):
        return p._replace(weight=np.where(np.arange(32)[:, None] < 8, 0, p.weight)) if name == "layer.0.k" else p

    work = begun._replace(dense=replace(DENSE, model=map_linears(MODEL, change)))
    smaller = replace(MODEL, layers=(MODEL.layers[0], keep_first(MODEL.layers[1])),
                      config=replace(MODEL.config, layer_heads=(4, 1)))  # fmt: skip
    found = function(begun, work)
    assert {name: kept.tolist() for name, kept in found.items()} == {
        "layer.0": [False, True, True, True], "layer.1": [True] * 4
    }  # fmt: skip
    work = begun._replace(dense=replace(DENSE, model=smaller), heads=((0, 1, 2, 3), (2,)))
    assert function(begun, work)["layer.1"].tolist() == [False, False, True, False]


def keep_first(layer):
    """Its first head alone."""
    q, k, v = (p._replace(weight=p.weight[:8], bias=p.bias[:8]) for p in (layer.q, layer.k, layer.v))
    output = layer.attention_output
    return layer._replace(q=q, k=k, v=v, attention_output=output._replace(weight=output.weight[:, :8]))


def test_what_is_filled():
    check_to_fill(nn_pruning.to_fill)


def test_a_hybrid_without_an_update_between_its_warm_ups():
    how = replace(OWN, warmup=0.32, initial_warmup=1, final_warmup=2)
    with pytest.raises(ValueError, match=r"steps is 3; need more than the 3 of both warm-ups"):
        nn_pruning.learned(MODEL, NAMES, how, 3)


def test_what_a_model_does_not_allow():
    for make, how in ((methods.pruning, HOW), (methods.top_scores, TOP)):
        with pytest.raises(ValueError, match=r"block 5x1 does not divide .*, 32x32; need one that divides every layer"):
            make(MODEL, NAMES, replace(how, block=(5, 1)), UPDATES)
    with pytest.raises(ValueError, match=r"layer\.0\.q has the shape \(32, 32\); need multiples of the block 5x8"):
        moving(block=(5, 8))
    for start, end in ((0.2, 2), (1, 1.2)):
        with pytest.raises(ValueError, match="need an update or more before it and within it, 3 an epoch"):
            moving(warmup_start_epoch=start, warmup_end_epoch=end)


# --- going on --------------------------------------------------------------------------------------------------------


def quantized_model():
    return prepare(tiny.calibrated("bert_classification")).model


def kinds():
    model = quantized_model()
    names = names_in(named(model), model)
    made = {kind: (methods.pruning(MODEL, NAMES, replace(HOW, method=kind), UPDATES), MODEL) for kind in
            ("one-shot", "prune-ofa", "inc")}  # fmt: skip
    return made | {
        "locked": (methods.locked(holed(), names_in(named(MODEL), MODEL)), MODEL),
        "top": (methods.top_scores(MODEL, NAMES, TOP, UPDATES), MODEL),
        "moving": (moving(), MODEL),
        "snip": (methods.pruning(MODEL, NAMES, replace(HOW, method="inc", criterion="snip"), UPDATES), MODEL),
        "hybrid": (nn_pruning.learned(MODEL, NAMES, OWN, UPDATES), MODEL),
        "quantize-aware": (methods.locked(model, names), model),
        "jpqd": (moving(model), model),
    }


KINDS = ["one-shot", "prune-ofa", "inc", "locked", "top", "moving", "snip", "hybrid", "quantize-aware", "jpqd"]


@pytest.mark.parametrize(("kind", "accumulate"), [*((kind, 2) for kind in KINDS), ("inc", 1), ("moving", 4)])
def test_a_stop_after_any_update_changes_no_bit(kind, accumulate, tmp_path):
    method, model = kinds()[kind]
    work, settings, state = training(method, model, accumulate)
    run = {"test": kind}
    path = tmp_path / "kept"
    cuts = []
    for event in train(work, settings, state):
        state = event.state
        cuts.append(path.with_name(f"kept{len(cuts)}"))
        checkpoint.save(state, run, cuts[-1])
    for cut in cuts[:-1]:
        work, settings, begun = training(kinds()[kind][0], model, accumulate)
        again = checkpoint.load(cut, run, begun)
        for event in train(work, settings, again):
            again = event.state
        assert (again.step, again.history) == (state.step, state.history)
        tiny.same(tuple(frozen_copy(again).values()), tuple(frozen_copy(state)[name] for name in frozen_copy(again)))


# --- distillation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "model"), [(TASK, MODEL), (ASKED, QUESTIONS)])
def test_a_teacher_says_what_its_model_gives(task, model):
    calls = []
    said = teach(task, model, REFERENCE, lambda *call: calls.append(call))
    assert calls[-1] == (ROWS, ROWS)
    for length in set(task.lengths):
        rows = [i for i in range(ROWS) if task.lengths[i] == length]
        np.testing.assert_array_equal([said[i] for i in rows], forward(model, encoded(rows), REFERENCE))


@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_a_teacher_has_a_position_for_each_token(head, tmp_path):
    few = replace(MODEL, config=replace(MODEL.config, positions=6))
    with pytest.raises(ValueError, match="a training row has 7 tokens, the teacher 6 positions; need a position a tok"):
        taught(setting_of(TASK._replace(head=head), few, tmp_path))


MASKED = tiny.dense("distilbert_masked_lm").model
HIDDEN_TOKENS = TASK._replace(head="masked_lm", loss=lambda y, batch, target: cross_entropy(y, target))


def check_triple(function):
    """DistilBERT's three losses, a seventh of each sum: 5 KL, 2 cross entropy of hidden tokens, 1 cosine."""
    student, teacher = (cast(MASKED, np.float64) for _ in range(2))
    draw = np.random.default_rng(3)
    given = {name: x + draw.normal(0, 0.05, x.shape) for name, x in named(student).items()}
    how = Distillation("kl_batchmean", 1.5, 5 / 7, 1 / 7, "cosine", "last")
    met = meeting(student.config, teacher.config, how.hidden_layers)
    ask = asker(teacher, REFERENCE, frozenset(met.values()), True)
    batch = encoded([0, 3, 4])
    labels = np.where((draw.random(batch.ids.shape) < 0.3) & (batch.mask != 0), batch.ids, -100)
    task = HIDDEN_TOKENS._replace(example=lambda rows, draw: (batch, labels))
    task = matched(function(task, ask, how), ask, met, how)
    loss, _ = job(task, student, How(3, 0, 0.0)).gradients(given, [0, 3, 4], draw)
    seen, want = Recorder(), Recorder()
    y = forward(with_parameters(student, given), batch, tap=seen)
    t = forward(teacher, batch, tap=want)
    end = f"layer.{len(student.layers) - 1}.output_norm"
    kl = distil.kl_tokens(y, t, batch.mask, 1.5)
    cosine = distil.cosine_tokens(seen.values[end], want.values[end], batch.mask)
    triple = distil.distilbert(kl, cross_entropy(y, labels), cosine)
    assert 7 * loss == pytest.approx(triple.value, rel=1e-12)
    found = task.loss(y, batch, labels)
    np.testing.assert_allclose(7 * found.gradient, triple.d_logits, rtol=1e-12, atol=1e-18)
    (inside,) = task.inner.loss(batch, seen.values)[1].values()
    np.testing.assert_allclose(7 * inside, triple.d_hidden, rtol=1e-12, atol=1e-18)
    alone = function(HIDDEN_TOKENS, ask, Distillation("mse_logits", 1.0, 1.0)).loss(y, batch, labels)
    per_token = distil.of_tokens(distil.mse_logits, y, t, batch.mask)
    tiny.same(alone, per_token)


def test_a_masked_language_model_has_the_triple_loss():
    check_triple(distilled_beside)


def test_a_teacher_is_asked_once_of_a_batch(monkeypatch):
    """By two losses; what is said is not kept for longer."""
    asked = []
    monkeypatch.setattr(beside, "forward", lambda *given: asked.append(given) or forward(*given))
    end, batch = "layer.1.output_norm", encoded([0, 3])
    ask = asker(MODEL, REFERENCE, frozenset([end]), True)
    first = ask(batch)
    assert ask(batch) is first
    tiny.same(first.logits, forward(MODEL, batch))
    assert list(first.ends) == [end]
    assert ask(batch) is not first
    assert ask(encoded([0, 3])) is not first
    assert len(asked) == 3
    once = asker(MODEL, REFERENCE, frozenset(), False)
    assert once(batch) is not once(batch)


def test_a_teacher_of_masked_tokens_is_not_asked_before(tmp_path):
    setting = setting_of(HIDDEN_TOKENS, MASKED, tmp_path)
    for _ in range(2):
        made, _ = begin(setting, MODEL)
        assert made == setting


def setting_of(task, teacher, folder, **identity):
    nothing = dict.fromkeys(("logits", "new_tape", "measure"))
    return Setting(
        **nothing, task=task, teacher=teacher, ops=REFERENCE, folder=folder, identity=identity, bar=Bar(), seed=0,
        threads=1, save_every=1,
    )  # fmt: skip


@pytest.mark.parametrize(("task", "model"), [(TASK, MODEL), (ASKED, QUESTIONS)])
def test_what_comes_before_the_stages_is_kept(task, model, tmp_path, monkeypatch):
    setting = setting_of(task, model, tmp_path)
    first, metrics = begin(setting, MODEL)
    assert metrics == task.evaluate(MODEL)
    monkeypatch.setattr(beginning, "teach", None)
    again, kept = begin(replace(setting, task=task._replace(evaluate=None)), MODEL)
    assert kept == metrics
    assert len(again.logits) == ROWS
    for said, want in zip(again.logits, first.logits, strict=True):
        tiny.same(said, want)
    with pytest.raises(
        ValueError, match=r"0\.training is of another run: its seed is None, this one's 3; give the same"
    ):
        begin(setting_of(task, model, tmp_path, seed=3), MODEL)
    with pytest.raises(ValueError, match=r"0\.training: extra arrays have logits as .*; need "):
        begin(setting_of(task._replace(lengths=[4]), model, tmp_path), MODEL)
    with pytest.raises(ValueError, match=r"0\.training: extra arrays have logits as .*; need None"):
        begin(setting_of(task, None, tmp_path), MODEL)


def test_without_a_teacher_the_baseline_is_kept(tmp_path):
    setting = setting_of(TASK, None, tmp_path)
    unable = replace(setting, task=TASK._replace(evaluate=None))
    with pytest.raises(TypeError, match="not callable"):
        begin(unable, MODEL)
    assert not list(tmp_path.iterdir())
    assert begin(setting, MODEL) == (setting, TASK.evaluate(MODEL))
    assert begin(unable, MODEL) == (unable, TASK.evaluate(MODEL))


KD = {
    "kl_batchmean": lambda s, t, at: distil.kl_batchmean(s, t, at),
    "kl_element_mean": lambda s, t, at: distil.kl_element_mean(s, t, at),
    "soft_cross_entropy": lambda s, t, at: distil.soft_cross_entropy(s, t, at),
    "mse_logits": lambda s, t, at: distil.mse_logits(s, t),
    "l2_distance": lambda s, t, at: distil.l2_distance(s, t),
}


def check_distilled(function):
    draw = np.random.default_rng(0)
    taught = [draw.normal(size=3).astype(np.float32) for _ in range(ROWS)]
    rows, y = [4, 1, 7], draw.normal(size=(3, 3)).astype(np.float32)
    for name in CHOICES["loss"]:
        kd = KD[name](y, np.stack([taught[i] for i in rows]), 1.5)
        for weight in (0.0, 0.7, 1.0):
            task = function(TASK, taught, Distillation(name, 1.5, weight))
            batch, target = task.example(rows, draw)
            tiny.same(batch, encoded(rows))
            want = kd if weight == 1 else ovtrainer(TASK.loss(y, batch, np.array(rows) % 3), kd, weight)
            tiny.same(task.loss(y, batch, target), want)


def check_padding(function):
    """Of questions: each row by its own tokens, as if it were alone, whatever is in the padding."""
    draw = np.random.default_rng(1)
    taught = [draw.normal(size=(n, 2)).astype(np.float32) for n in ASKED.lengths]
    rows = [4, 1, 7, 0]
    y = draw.normal(size=(4, max(ASKED.lengths[i] for i in rows) + 5, 2)).astype(np.float32)
    for name in CHOICES["loss"]:
        task = function(ASKED, taught, Distillation(name, 0.25, 1.0))
        found = task.loss(y, encoded(rows, 5), (np.array(rows), rows))
        tiny.same(found.value, task.loss(y[:, :-5], encoded(rows), (np.array(rows), rows)).value)
        alone = [distil.start_end(lambda s, t: KD[name](s, t, 0.25), x[None, : len(taught[i])], taught[i][None])  # noqa: B023
                 for x, i in zip(y, rows, strict=True)]  # fmt: skip
        assert found.value == sum((each.value / np.float32(4) for each in alone), np.float32(0))
        for got, each, i in zip(found.gradient, alone, rows, strict=True):
            np.testing.assert_array_equal(got[: len(taught[i])], each.gradient[0] / np.float32(4))
            assert not got[len(taught[i]) :].any()


def test_distillation():
    check_distilled(distilled)
    check_padding(distilled)


# --- hidden states ---------------------------------------------------------------------------------------------------


def cosines(s, t):
    return (s * t).sum(-1) / np.sqrt(((s * s).sum(-1) + 1e-12) * ((t * t).sum(-1) + 1e-12))


HIDDEN = {
    "mse": lambda s, t: ((s - t) ** 2).mean(),
    "l1": lambda s, t: np.abs(s - t).mean(),
    "kl": lambda s, t: (softmax(t) * (log_softmax(t) - log_softmax(s))).mean(),
    "cosine": lambda s, t: (1 - cosines(s, t)).mean(),
}


def check_matched(function):
    for name in CHOICES["hidden_loss"]:
        check_matched_by(function, name, "all")
    check_matched_by(function, "mse", "last")


def check_matched_by(function, hidden_loss, layers):
    """The loss inside, and the gradient of the whole in f64 against differences, of a bias that all of it reaches."""
    student, teacher = (cast(MODEL, np.float64) for _ in range(2))
    draw = np.random.default_rng(2)
    given = {name: x + draw.normal(0, 0.05, x.shape) for name, x in named(student).items()}
    rows, how = [0, 3], Distillation(hidden=3.0, hidden_loss=hidden_loss, hidden_layers=layers)
    met = meeting(student.config, teacher.config, layers)
    ask = asker(teacher, REFERENCE, frozenset(met.values()), False)
    both = job(function(TASK, ask, met, how), student, How(2, 0, 0.0))
    plain = job(TASK, student, How(2, 0, 0.0))
    loss, gradients = both.gradients(given, rows, draw)
    batch, ends = encoded(rows), [f"layer.{i}.output_norm" for i in range(len(student.layers))]
    seen, want = Recorder(), Recorder()
    forward(with_parameters(student, given), batch, tap=seen)
    forward(teacher, batch, tap=want)
    ends = ends if layers == "all" else ends[-1:]
    live = batch.mask != 0
    inner = np.mean([HIDDEN[hidden_loss](seen.values[end][live], want.values[end][live]) for end in ends])
    assert loss == pytest.approx(plain.gradients(given, rows, draw)[0] + how.hidden * inner, rel=1e-12)
    name = next(name for name in given if name.endswith("layer.0.attention.self.value.bias"))
    for i in range(given[name].size):
        sides = []
        for step in (1e-5, -1e-5):
            moved = given[name].copy()
            moved[i] += step
            sides.append(both.gradients({**given, name: moved}, rows, draw)[0])
        assert gradients[name][i] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_hidden_states_meet_the_teachers():
    check_matched(matched)
    assert pairs(3, 6) == {f"layer.{j}.output_norm": f"layer.{2 * j + 1}.output_norm" for j in range(3)}
    assert pairs(2, 3)["layer.0.output_norm"] == "layer.0.output_norm"
    with pytest.raises(ValueError, match="the student has 3 layers, the teacher 2; need at most as many"):
        pairs(3, 2)
    wider = replace(MODEL.config, hidden=64)
    with pytest.raises(ValueError, match="states have the width 32, the teacher's 64; need the same, or hidden = 0"):
        meeting(MODEL.config, wider, "all")


def test_padding_has_no_hidden_state_to_meet():
    met = meeting(MODEL.config, MODEL.config, "all")
    ask = asker(MODEL, REFERENCE, frozenset(met.values()), False)
    inner = matched(TASK, ask, met, Distillation(hidden=1.0)).inner
    rows = [0, 3]
    kept = [Keep({}, inner.names) for _ in range(2)]
    for more, tap in enumerate(kept):
        forward(MODEL, encoded(rows, 4 * more), tap=tap)
    shifted = [{name: value + np.float32(0.1) for name, value in tap.values.items()} for tap in kept]
    found = [inner.loss(encoded(rows, 4 * more), values) for more, values in enumerate(shifted)]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name in inner.names:
        assert not found[1][1][name][encoded(rows, 4).mask == 0].any()
