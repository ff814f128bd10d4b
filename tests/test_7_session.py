"""Rung 7: the engine. Oracles: the judge, operator by operator; the reference's own steps, to the bit; itself, alone.

What a session computes is judged from its own intermediate values, so nothing hides behind drift.
"""

import itertools
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_1_arithmetic import equal
from test_2_registers import NEEDS_JIT
from test_5_kernels import need_threads
from tiny import ONE_OF_EACH_HEAD, batch, calibrated, dense, quantized, quantized_with_attention, rows

from refimpl.kernels.encoder.forms import FORMS
from refimpl.kernels.execution import most_threads
from refimpl.models import compress, precision
from refimpl.models.bert import Batch
from refimpl.models.embedded import demo_model
from refimpl.models.judge import judge
from refimpl.models.runtime.memory import Life, plan_memory
from refimpl.models.runtime.plan import make_plan
from refimpl.models.runtime.record import record
from refimpl.models.runtime.session import PLANS, Session, lay_out
from refimpl.models.runtime.weights import prepare
from refimpl.models.runtime.widths import HALF, WIDE, choose_width
from refimpl.models.terminal import read_texts

pytestmark = NEEDS_JIT
NAME = ONE_OF_EACH_HEAD[0]


@pytest.fixture(scope="module")
def minilm():
    """The embedded model, quantized, and packed; its texts, one a batch."""
    loaded = compress.load(demo_model())
    texts = compress.encode_each(loaded.tokenizer, read_texts(None)[:6])
    pruned = compress.prune(loaded, 0.2)
    made = compress.quantize(compress.calibrate(pruned, texts))
    return made, compress.pack(made), texts, pruned


def judged(model, session, one):
    """Every tap within its bound; its values and the findings."""
    taps = record(session, *one)
    equal(taps["output"], session(*one))
    findings = judge(model, one, taps)
    assert {tap: found for tap, found in findings.items() if found.outside} == {}
    assert findings.keys() == taps.keys()
    return taps, findings


@pytest.mark.parametrize("name", ONE_OF_EACH_HEAD)
@pytest.mark.parametrize("form", FORMS)
def test_small_models_are_within_the_bounds(name, form):
    packed = compress.pack(quantized(name))
    session = Session(prepare(packed, form))
    for one in rows(name):
        judged(quantized(name).model, session, one)


def test_a_real_model_is_within_the_bounds(minilm):
    made, packed, texts, _ = minilm
    session = Session(packed)
    for one in texts[:2]:
        taps, findings = judged(made.model, session, one)
        assert len(taps) == 6 * 11 + 4
        assert max(found.different for tap, found in findings.items() if tap.endswith((".q.codes", "te.codes"))) == 0


def test_a_classifier_of_first_tokens_alone_has_the_same_bits():
    """After the last attention; the texts do not begin with panels, and one is a single token."""
    for packed in (compress.pack(quantized(NAME)), compress.pack(quantized_with_attention(NAME)), dense(NAME)):
        whole, one = Session(packed), Session(packed)
        whole.shape = lambda mask, whole=whole: Session.shape(whole, mask)._replace(picked=0)
        many = np.tile(batch(NAME).ids, (20, 1))
        mask = (np.arange(many.shape[1]) < (np.arange(len(many)) % many.shape[1] + 1)[:, None]).astype(np.int64)
        assert one.shape(mask).picked
        equal(one(many, mask), whole(many, mask))


def test_integer_attention_is_within_the_bounds(minilm):
    """A model with attention scales runs its attention in integers; the output is near that of f32 attention."""
    _, packed, texts, pruned = minilm
    made = compress.quantize_with_attention(compress.calibrate(pruned, texts))
    session = Session(compress.pack(made))
    assert session.weights.integer_attention
    for one in texts[:2]:
        taps, findings = judged(made.model, session, one)
        assert len(taps) == 6 * 11 + 4
        assert {f"layer.{i}.{name}_codes" for i in range(6) for name in "qkv"} <= findings.keys()
    plain, coded = Session(packed)(*texts[0]), session(*texts[0])
    assert 0.98 < (plain * coded).sum() < 0.999999


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attention", ["f32", "INT8"])
def test_a_batch_is_its_texts(minilm, form, attention):
    _, packed, texts, pruned = minilm
    if attention == "INT8":
        packed = compress.pack(compress.quantize_with_attention(compress.calibrate(pruned, texts)))
    check_batch(Session(packed, form=form), texts)


def check_batch(session, texts):
    longest = max(one.ids.shape[1] for one in texts)
    together = Batch(
        *(
            np.concatenate([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in part])
            for part in zip(*texts, strict=True)
        )
    )
    output = session(*together)
    for i, one in enumerate(texts):
        equal(output[i : i + 1], session(*one))


def test_two_threads_give_the_same_bits(minilm):
    need_threads(2)
    _, packed, texts, pruned = minilm
    coded = compress.pack(compress.quantize_with_attention(compress.calibrate(pruned, texts)))
    for weights in (prepare(packed), prepare(coded)):
        one, two = Session(weights), Session(weights, threads=2)
        for text in texts[:3]:
            equal(one(*text), two(*text))


def test_what_is_written_is_seen_through_one_array():
    """numba's parallel code takes a kernel's arrays for distinct: only q, k and v, read as u8 and as s8, are not."""
    f32 = dense(NAME)
    models = [compress.pack(quantized(NAME)), compress.pack(quantized_with_attention(NAME)), f32]
    sessions = [Session(model) for model in models] + [Session(models[0], form=form) for form in FORMS]
    shared = set()
    for session in [*sessions, Session(precision.in_bf16(f32))]:
        ready = session.ready(session.shape(batch(NAME).mask))
        for step, (_, arguments) in zip(ready.plan.steps, ready.calls, strict=True):
            arrays = [(i, x) for i, x in enumerate(arguments) if isinstance(x, np.ndarray) and x.size]
            pairs = itertools.combinations(arrays, 2)
            shared |= {(step.name.split(".")[-2], i, j) for (i, x), (j, y) in pairs if np.shares_memory(x, y)}
    assert shared == {("attention_output", 0, 1)}


def test_masked_tokens_are_as_if_not_there():
    """A mask that is no prefix: the tokens keep their places, and what is masked comes back as zeros."""
    session = Session(compress.pack(quantized(NAME)))
    one = rows(NAME)[0]
    mask = one.mask.copy()
    mask[0, 1] = 0
    ids = one.ids.copy()
    ids[0, 1] = (ids[0, 1] + 1) % session.weights.scale.size
    equal(session(one.ids, mask, one.types), session(ids, mask, one.types))
    assert not record(session, one.ids, mask, one.types)["embeddings"][0, 1].any()


@pytest.mark.parametrize("stage", ["INT8", "f32"])
def test_masks_that_are_no_prefixes(stage):
    """Padding before, between and after the tokens is as if it were not there and the tokens had their places; any
    number or True is a token."""
    name, last = "bert_question_answering", "layer.0.output_norm"
    session, whole = Session(dense(name) if stage == "f32" else compress.pack(quantized(name))), batch(name)
    mask = np.ones_like(whole.mask)
    mask[0, :2], mask[1, 1::2], mask[2, -1] = 0, 0, 0
    holes = whole._replace(mask=mask)
    hidden = record(session, *holes)[last]
    places = session.weights.position.reshape(session.weights.config.positions, -1)
    for text, here in enumerate(mask.astype(bool)):
        table = places.copy()
        table[: here.sum()] = places[: here.size][here]
        alone = Session(session.weights._replace(position=table.reshape(-1)))
        equal(hidden[text, here], record(alone, *(part[text : text + 1, here] for part in holes))[last][0])
        assert not hidden[text, ~here].any()
    output = session(*holes)
    for other in (mask.astype(bool), mask * 7, mask.astype(np.uint8)):
        equal(session(whole.ids, other, whole.types), output)


def test_without_a_mask_all_are_tokens():
    session, whole = Session(compress.pack(quantized(NAME))), batch(NAME)
    equal(session(whole.ids), session(whole.ids, np.ones_like(whole.ids), np.zeros_like(whole.ids)))


def test_two_sessions_run_at_once():
    """Of two models, in two threads."""
    sessions = [Session(compress.pack(quantized(NAME))), Session(dense(NAME))]
    want = [session(*batch(NAME)) for session in sessions]
    with ThreadPoolExecutor(2) as pool:
        for outputs in [pool.map(lambda session: session(*batch(NAME)), sessions) for _ in range(30)]:
            for output, right in zip(outputs, want, strict=True):
                equal(output, right)


def test_a_session_outlives_mistakes():
    session = Session(compress.pack(quantized(NAME)))
    whole = batch(NAME)
    before = session(*whole)
    words, positions = session.weights.scale.size, session.weights.config.positions
    long = np.zeros((1, positions + 1), np.int64)
    for error, message, given_ in (
        (TypeError, "ids is float64; need an array of integers", (whole.ids.astype(float), whole.mask)),
        (TypeError, "ids is list; need an array of integers", ([[1]], whole.mask)),
        (TypeError, "ids is object; need an array of integers", (np.array([[1, 2], [3]], object), None)),
        (ValueError, r"mask has shape \(3, 1\); need", (whole.ids, whole.mask[:, :1])),
        (ValueError, r"ids has shape \(0, 4\); need at least one text", (np.zeros((0, 4), int), np.zeros((0, 4), int))),
        (
            ValueError,
            f"ids has the element {words}; need 0 to {words - 1}",
            (np.full((1, 2), words), np.ones((1, 2), int)),
        ),
        (ValueError, "ids has the element -1; need 0", (np.full((1, 2), -1), np.ones((1, 2), int))),
        (
            ValueError,
            "mask leaves out the first token of text 2, which classification reads",
            (whole.ids, np.vstack([whole.mask[:2], np.eye(whole.mask.shape[1], dtype=int)[1:2]])),
        ),
        (ValueError, "mask has no token in text 1", (whole.ids, whole.mask * np.array([[1], [0], [1]]))),
        (ValueError, f"ids has {positions + 1} tokens; the model has {positions} positions", (long, long + 1)),
    ):
        with pytest.raises(error, match=message):
            session(*given_)
    for threads in (0, most_threads() + 1):
        with pytest.raises(ValueError, match=f"threads is {threads}; need 1 to {most_threads()}"):
            Session(session.weights, threads=threads)
    with pytest.raises(ValueError, match=r"the session has no tokenizer; need Session\(weights, tokenizer\)"):
        Session(session.weights).run_texts(["a"])
    with pytest.raises(TypeError, match=r"the model is str; need what compress\.load reads"):
        Session("small.safetensors")
    equal(session(*whole), before)


def test_models_that_do_not_fit():
    packed = compress.pack(quantized(NAME))
    layer = packed.model.layers[0]
    other = layer._replace(k=layer.k._replace(input_scale=layer.k.input_scale * np.float32(2)))
    with pytest.raises(ValueError, match=r"layer.0: q, k and v read their input with the scales"):
        prepare(replace(packed, model=replace(packed.model, layers=(other, *packed.model.layers[1:]))))
    coded = compress.pack(compress.quantize_with_attention(calibrated(NAME)))
    mixed = (coded.model.layers[0], *packed.model.layers[1:])
    with pytest.raises(ValueError, match="only some layers have attention scales; need all or none"):
        prepare(replace(packed, model=replace(packed.model, layers=mixed)))


def test_threads_may_share_a_session():
    session, texts = Session(compress.pack(quantized(NAME))), rows(NAME)
    want, wrong = [session(*one) for one in texts], []

    def work(i):
        for _ in range(20):
            if not np.array_equal(session(*texts[i]), want[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_a_forked_process_is_told(monkeypatch):
    need_threads(2)
    session = Session(compress.pack(quantized(NAME)), threads=2)
    monkeypatch.setattr(os, "getpid", lambda: session._process + 1)
    with pytest.raises(RuntimeError, match="forked after this session was made"):
        session(*batch(NAME))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_warm_run_allocates_only_its_result(minilm):
    _, packed, texts, _ = minilm
    session, one = Session(packed), texts[0]
    ready = session.ready(session.shape(one.mask))
    for _ in range(3):
        session(*one)
    tracemalloc.start()
    session.run(ready)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    session.run(ready)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < 2048  # frames of Python; the smallest tensor is larger
    assert min(array.nbytes for name, array in ready.arrays.items() if name.endswith("norm")) > 2048


def test_sessions_share_weights_and_bound_their_plans(minilm):
    _, packed, texts, _ = minilm
    first = Session(packed)
    second = Session(first.weights)
    assert all(a is b for a, b in zip(first.weights, second.weights, strict=True))
    equal(first(*texts[0]), second(*texts[0]))
    for tokens in range(2 + PLANS + 3, 2, -1):
        second(np.full((1, tokens), 5))
    assert len(second._plans) == PLANS
    weights = sum(
        array.nbytes
        for layer in first.weights.layers
        for p in (layer.qkv, layer.output, layer.intermediate)
        for array in p.arrays
    )
    assert second._arena.nbytes < weights / (10 if HALF in second.widths else 5)


LIVES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(
        lambda size, first, more: Life(size, first, first + more),
        st.integers(0, 500),
        st.integers(0, 9),
        st.integers(0, 5),
    ),
    max_size=12,
)


@given(LIVES)
def test_tensors_that_live_at_once_never_overlap(lives):
    arena = plan_memory(lives)
    for a, x in lives.items():
        assert arena.offsets[a] % 64 == 0
        assert arena.offsets[a] + x.size <= arena.peak
        for b, y in lives.items():
            if a < b and x.meets(y) and x.size and y.size:
                apart = arena.offsets[a] + x.size <= arena.offsets[b] or arena.offsets[b] + y.size <= arena.offsets[a]
                assert apart
    assert arena.bound <= arena.peak <= max(arena.total, 0)


def test_the_plan_of_a_real_model_is_near_the_bound(minilm):
    _, packed, texts, _ = minilm
    session = Session(packed)
    plan = make_plan(session.weights, session.shape(texts[0].mask))
    assert plan.arena.peak <= 1.05 * plan.arena.bound
    assert plan.arena.total > 5 * plan.arena.peak


def test_width_of_the_panels():
    widths = {n: choose_width(n) for n in (1, 32, 33, 64, 65, 96, 97, 128)}
    assert widths == {1: HALF, 32: HALF, 33: WIDE, 64: WIDE, 65: HALF, 96: HALF, 97: WIDE, 128: WIDE}


def test_texts_share_panels():
    first, end = lay_out([3, 8, 1, 70], 4)
    assert (first, end) == ([0, 4, 12, 16], 88)
    session = Session(compress.pack(quantized(NAME)))
    shape = session.shape(np.ones((8, 16)))
    assert (shape.width, shape.panels, shape.most) == (WIDE, 2, 1)
    assert session.shape(np.ones((2, 48))).most == 2  # the second text lies in both panels
