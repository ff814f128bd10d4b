"""Rung 7: the command ``saturation``. Oracles: OpenVINO without VNNI, the saturating kernels, rung 8's repairs."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import test_7_engines as engines
import tiny
from test_1_arithmetic import equal

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.integer.pairs import add_excess, dense_pairs
from refimpl.kernels import cpu
from refimpl.kernels.bsgemm_4x1_u8s8s32_pair_saturating import BSGEMM_4X1_PAIR_SATURATING
from refimpl.kernels.layout import bsr4x1
from refimpl.kernels.layout.bsr4x1_slots import block_rows, from_block_rows, saturable_pairs
from refimpl.models import cli, compress, packed_file
from refimpl.models.bert import forward, linears
from refimpl.models.embedded import demo_model
from refimpl.models.engines.isa import CAPS
from refimpl.models.engines.isolated import Conditions, run_taps
from refimpl.models.judge import judge
from refimpl.models.saturation.fix import folded, unslotted, write
from refimpl.models.saturation.layouts import BLOCKS, DENSE, LAYOUTS
from refimpl.models.saturation.remedies import as_it_is, offered, treatment
from refimpl.models.saturation.run import EXACT, SATURATING, batched, labels, outputs, prepared, recorded
from refimpl.models.saturation.subject import from_dense, from_packed
from refimpl.models.terminal import read_texts
from refimpl.quant import QUANTIZED, compensation

NAME = "bert_classification"
SENTENCES = read_texts(None)[:4]


@pytest.fixture(scope="module")
def dense_minilm():
    try:
        return from_dense(compress.load(demo_model()), SENTENCES, 0.0)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sparse_minilm():
    try:
        return from_dense(compress.load(demo_model()), SENTENCES, 0.8)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def small():
    """A tiny model with weights that saturate: all of a size, as sign-like weights are."""
    dense = tiny.dense(NAME)
    subject = from_dense(dense, tiny.TEXTS, 0.0)
    rng = np.random.default_rng(0)

    def change(name, p):
        return p._replace(codes=rng.choice([-127, -90, 40, 90, 127], p.codes.shape).astype(np.int8))

    model = compress.map_linears(subject.quantized.model, change)
    quantized = compress.Quantized(model, subject.quantized.tokenizer)
    return from_packed(compress.pack(quantized))


def without_vnni():
    engines.needs("openvino")
    if platform.machine() not in ("x86_64", "AMD64") or "avx512bw" not in cpu.features():
        pytest.skip("ONEDNN_MAX_CPU_ISA=AVX512_CORE needs a CPU with AVX-512")
    return "avx512"


PROGRAM = """
import sys
import numpy as np
from refimpl.models.engines import signed_product
with np.load(sys.argv[1]) as given:
    names = {name.rpartition(" ")[0] for name in given}
    pairs = {name: (given[name + " u"], given[name + " w"]) for name in names}
np.savez(sys.argv[2], **{name: signed_product("openvino", *pair) for name, pair in pairs.items()})
"""


def signed_products(isa, folder, operands):
    """OpenVINO's bare product of each pair of u8 (N, K) and s8 (M, K), in a process kept to an ISA."""
    given, result = folder / "given.npz", folder / "result.npz"
    np.savez(
        given, **{f"{name} {part}": x for name, pair in operands.items() for part, x in zip("uw", pair, strict=True)}
    )
    command = [sys.executable, "-c", PROGRAM, str(given), str(result)]
    done = subprocess.run(command, env=os.environ | CAPS[isa][1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(result))


# --- prediction and repair against a real engine ---------------------------------------------------------------------


def test_what_saturates_is_predicted_and_repaired_to_the_element(dense_minilm, tmp_path):
    """OpenVINO without VNNI on whole layers: the accumulators, and so the wrong ones, are those predicted; in slots
    they are exact."""
    isa = without_vnni()
    subject, layers = dense_minilm, ["layer.0.q", "layer.2.k", "layer.4.attention_output", "layer.0.output"]
    plain = as_it_is(subject, DENSE)
    fixed = treatment(subject, DENSE, "re-pairing+split", {})
    codes = recorded(prepared(subject.quantized.model, plain), batched(subject.quantized.tokenizer, SENTENCES))[1]
    operands, wrong = {}, 0
    for name in layers:
        slots = fixed[name].stored
        operands[name] = codes[name], plain[name].linear.codes
        operands[name + " fixed"] = codes[name][:, slots.columns], slots.codes
    theirs = signed_products(isa, tmp_path, operands)
    for name in layers:
        u, w = operands[name]
        exact = gemm_u8s8s32(u, w) - compensation(w)
        predicted = exact.copy()
        add_excess(predicted, u, plain[name].pairs)
        equal(theirs[name].astype(np.int32), predicted)
        equal(theirs[name] != exact, predicted != exact)
        equal(theirs[name + " fixed"].astype(np.int32), exact)
        wrong += int((predicted != exact).sum())
    assert wrong > 100


@pytest.mark.parametrize("name", ["none", "re-pairing-free", "zero-pairing", "re-pairing+split"])
def test_exported_repairs_are_exact_without_vnni(tmp_path, small, name):
    """Small, in OpenVINO as a whole: every linear layer against the exact sums of OpenVINO's own codes."""
    isa = without_vnni()
    treated = treatment(small, DENSE, name, {})
    write(small, treated, tmp_path / "model.onnx")
    model, batch = small.quantized.model, tiny.batch(NAME)
    plain = unslotted(folded(model, treated))
    taps = [tap for tap in tiny.record(plain, batch, QUANTIZED) if not tap.endswith(".acc")]
    layers, values = run_taps("openvino", tmp_path / "model.onnx", batch, taps, Conditions(isa))
    assert layers == len(linears(model))
    findings = judge(plain, batch, values)
    wrong = sum(findings[layer].outside for layer in linears(model))
    predicted = 0
    for layer, t in treated.items():
        codes = values[layer + ".codes"]
        if name == "none":
            u = codes.reshape(-1, codes.shape[-1])
            predicted += int((gemm_u8s8s32_pair_saturating(u, t.linear.codes) != gemm_u8s8s32(u, t.linear.codes)).sum())
    assert name == "re-pairing-free" or wrong == predicted
    assert (wrong > 0) == (sum(t.unsafe for t in treated.values()) > 0)
    equal(forward(plain, batch, QUANTIZED).argmax(-1), forward(model, batch, QUANTIZED).argmax(-1))


# --- the two layouts -------------------------------------------------------------------------------------------------


def test_blocks_as_slots():
    rng = np.random.default_rng(1)
    w = rng.integers(-128, 128, (10, 23)).astype(np.int8) * np.repeat(rng.random((3, 23)) < 0.5, 4, 0)[:10]
    packed = bsr4x1.pack(w)
    rows = block_rows(packed)
    tiny.same(from_block_rows(packed.shape, rows), packed)
    a = rng.choice([0, 128, 255], (9, 23)).astype(np.uint8)
    acc = gemm_u8s8s32(a, w)
    add_excess(acc, a, saturable_pairs(packed))
    equal(acc, BSGEMM_4X1_PAIR_SATURATING.oracle(a, w))
    assert (np.diff(saturable_pairs(packed).row) >= 0).all()
    with pytest.raises(ValueError, match="a block row of 3 slots; need a multiple of 4"):
        from_block_rows(packed.shape, [row._replace(columns=row.columns[:3]) for row in rows])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_exact_remedy_keeps_every_weight(small, layout):
    done = {}
    for name, remedy in offered(layout).items():
        for layer, t in treatment(small, layout, name, done).items():
            k = t.linear.codes.shape[1]
            equal(t.layout.weight(t.stored, k), t.linear.codes)
            if remedy.exact:
                equal(t.linear.codes, linears(small.quantized.model)[layer].codes)
        complete = name == "split-4x1" or (remedy.change is not None and name != "re-pairing")
        assert not complete or sum(t.unsafe for t in done[name].values()) == 0


@pytest.mark.slow
def test_sparse_minilm(sparse_minilm):
    """Of the pairs that meet in 4x1 blocks, re-pairing leaves less than one in a hundred; zeros do the rest, for less
    than one product in a thousand, and the real instructions give the exact product."""
    done = {}
    plain = treatment(sparse_minilm, BLOCKS, "none", done)
    paired = treatment(sparse_minilm, BLOCKS, "re-pairing", done)
    assert sum(t.unsafe for t in paired.values()) <= 0.01 * sum(t.unsafe for t in plain.values())
    fixed = treatment(sparse_minilm, BLOCKS, "re-pairing+zero", done)
    count = [sum(t.pairs.row.size for t in treated.values()) for treated in (plain, paired)]
    assert count[1] <= 0.01 * count[0]  # for any codes, too
    assert count[0] > 80_000
    assert sum(t.unsafe for t in fixed.values()) == 0
    assert sum(BLOCKS.macs(t.stored) for t in fixed.values()) < 1.001 * sum(
        BLOCKS.macs(t.stored) for t in plain.values()
    )
    target = BSGEMM_4X1_PAIR_SATURATING.fastest()
    a = np.random.default_rng(0).choice([0, 255], (16, 384)).astype(np.uint8)
    for layer in ("layer.0.q", "layer.3.k"):
        w, stored = fixed[layer].linear.codes, fixed[layer].stored
        below = np.minimum(a, fixed[layer].most).astype(np.uint8)
        assert (BSGEMM_4X1_PAIR_SATURATING.run(target, below, plain[layer].stored) != gemm_u8s8s32(below, w)).any()
        equal(BSGEMM_4X1_PAIR_SATURATING.run(target, below, stored), gemm_u8s8s32(below, w))


def test_a_repaired_file_keeps_its_order(tmp_path, small):
    fixed = treatment(small, BLOCKS, "re-pairing+split", {})
    write(small, fixed, tmp_path / "fixed")
    loaded = packed_file.load(tmp_path / "fixed")
    again = from_packed(loaded)
    for name, p in linears(loaded.model).items():
        tiny.same(p.weight, fixed[name].stored)
        equal(again.quantized.model.layers[0].q.codes, small.quantized.model.layers[0].q.codes)
        equal(p.compensation, compensation(fixed[name].linear.codes))
    assert sum(t.unsafe for t in as_it_is(again, BLOCKS).values()) == 0
    assert sum(t.unsafe for t in as_it_is(small, BLOCKS).values()) > 100


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_runs_and_labels(name):
    dense = tiny.dense(name)
    subject = from_dense(dense, tiny.TEXTS, 0.0)
    batches = batched(dense.tokenizer, tiny.TEXTS)
    plain = prepared(subject.quantized.model, as_it_is(subject, DENSE))
    exact, codes = recorded(plain, batches)
    for row, batch in zip(exact, compress.encode_each(dense.tokenizer, tiny.TEXTS), strict=True):
        np.testing.assert_allclose(row, forward(subject.quantized.model, batch, QUANTIZED)[0], atol=2e-2)
    assert {len(x) for x in codes.values()} == {sum(int(batch.mask.sum()) for batch in batches)}
    for value, most in ((codes[layer], subject.most[layer]) for layer in codes):
        assert (value <= most).all()
    tokens = sum(int(batch.mask.sum()) for batch in batches)
    head = dense.model.config.head
    decisions = {"classification": 6, "sentence_embedding": 6, "question_answering": 12, "masked_lm": tokens}[head]
    assert labels(exact, dense.model.config).size == decisions
    assert labels(exact[:1], dense.model.config).size == {6: 1, 12: 2}.get(decisions, len(exact[0])) - (
        head == "sentence_embedding"
    )


def test_a_saturating_run_differs_and_a_repaired_one_does_not(small):
    batches, done = batched(small.quantized.tokenizer, tiny.TEXTS), {}
    truth = outputs(prepared(small.quantized.model, as_it_is(small, DENSE)), batches, EXACT)
    for name, same in [("none", False), ("zero-pairing", True), ("split", True)]:
        model = prepared(small.quantized.model, treatment(small, DENSE, name, done))
        results = outputs(model, batches, SATURATING)
        assert all(np.array_equal(*pair) for pair in zip(results, truth, strict=True)) == same
    assert dense_pairs(small.quantized.model.layers[0].q.codes).row.size > 100


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments):
    try:
        cli.app([str(argument) for argument in arguments], standalone_mode=False)
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def files(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("saturation")
    packed_file.save(compress.pack(small.quantized), folder / "small")
    (folder / "texts").write_text("\n".join(tiny.TEXTS))
    return folder


def test_tables(files, capsys):
    run("saturation", files / "small", "--text", files / "texts", "--fix", "re-pairing+zero", "-o", files / "fixed")
    said = capsys.readouterr().out
    assert "BSGEMM" not in said.split("1 ")[0]
    for word in (
        "unsafe:",
        "layer.1.attention_output",
        "reduce-range",
        "re-pairing+split",
        "bsgemm_4x1",
        "--layout dense",
    ):
        assert word in said
    assert max(map(len, said.splitlines())) <= 100
    run("saturation", files / "fixed", "--text", files / "texts")
    assert "0: proved" in capsys.readouterr().out


def test_json(files, capsys):
    run("saturation", files / "small", "--text", files / "texts", "--layout", "dense", "--json")
    report = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in report["remedies"]}
    assert report["layout"] == "dense"
    assert rows["none"]["wrong"] == sum(row["wrong"] for row in report["layers"]) > 0
    assert rows["split"]["wrong"] == rows["split-4x1"]["wrong"] == rows["split"]["largest"] == rows["u7"]["wrong"] == 0
    assert rows["u7"]["largest"] > 0
    assert rows["re-pairing"]["unsafe"] < rows["re-pairing-free"]["unsafe"] < rows["none"]["unsafe"]
    assert rows["re-pairing-free"]["gathers"] == 0 < rows["re-pairing"]["gathers"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "0.5"], "is packed already, so that --sparsity cannot change it"),
        (["--fix", "split"], "--fix NAME and -o FILE go together; need both or neither"),
        (["-o", "new"], "--fix NAME and -o FILE go together"),
        (["--layout", "2x2"], "--layout is 2x2; need dense or 4x1"),
        (
            ["--fix", "u7", "-o", "new"],
            "--fix is u7, for which there is no file: .*; need one of nncf.* in the 4x1 layout",
        ),
        (["--fix", "none", "-o", "new"], "--fix is none, for which export or compress writes the file; need one of"),
        (["--fix", "re-pairing-free", "-o", "new"], "--fix is re-pairing-free; need one of"),
        (["--fix", "split", "-o", "new.onnx", "--layout", "4x1"], "new.onnx would be dense; --layout is 4x1"),
        (["--fix", "split", "-o", "small"], "small exists; name another file, or --force"),
        (["--fix", "split", "-o", "no/where"], "no is not a folder; create it first"),
    ],
)
def test_what_cannot_be_is_one_line(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    with pytest.raises((ValueError, OSError), match=message):
        run("saturation", "small", *arguments)
