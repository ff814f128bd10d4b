"""A repaired model really run with the instructions of a CPU without VNNI, against the exact result.

ONNX      OpenVINO in another process, kept to AVX-512 without VNNI and to AVX2; every linear layer's output is
          judged against the exact sums of the codes that OpenVINO itself had there
packed    our own saturating kernel (``vpmaddubsw``) on the weights as they are stored, against the exact product
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels import cpu
from refimpl.kernels.bsgemm_4x1_u8s8s32_pair_saturating import BSGEMM_4X1_PAIR_SATURATING as OLD
from refimpl.models.bert import Batch, Model, linears
from refimpl.models.engines import NAMES, installed
from refimpl.models.engines.isa import CAPS
from refimpl.models.engines.isolated import Conditions, run_taps
from refimpl.models.judge import judge
from refimpl.models.saturation.fix import folded, layout_of, unslotted, write
from refimpl.models.saturation.layouts import BLOCKS, DENSE
from refimpl.models.saturation.remedies import Treatment, as_it_is
from refimpl.models.saturation.report import TrialRow
from refimpl.models.saturation.run import CODES, prepared, recorded
from refimpl.models.saturation.subject import Subject

JUDGED = 4
"""How many texts OpenVINO runs, at most."""


def trials(subject: Subject, treatment: Treatment, path: Path, batches: Sequence[Batch]) -> list[TrialRow]:
    """A row for each machine that can be had here: none for ONNX without OpenVINO."""
    if layout_of(path) is not DENSE:
        return [_kernel(subject, treatment, batches)]
    if "openvino" not in installed():
        return []
    few = Batch(*(part[:JUDGED] for part in batches[0]))
    with tempfile.TemporaryDirectory() as folder:
        before, plain = Path(folder, "before.onnx"), as_it_is(subject, DENSE)
        write(subject, plain, before)
        return [
            _openvino(subject.quantized.model, isa, few, (before, plain), (path, treatment))
            for isa, (feature, _) in CAPS.items()
            if feature in cpu.features()
        ]


def _openvino(
    model: Model, isa: str, batch: Batch, before: tuple[Path, Treatment], after: tuple[Path, Treatment]
) -> TrialRow:
    names = list(linears(model))
    taps = [*names, *(name + CODES for name in names)]
    wrong, layers, outputs = [], 0, 0
    for path, treatment in (before, after):
        plain = unslotted(folded(model, treatment))
        layers, values = run_taps("openvino", path, batch, taps, Conditions(isa))
        findings = judge(plain, batch, values)
        wrong.append(sum(findings[name].outside for name in names))
        outputs = sum(findings[name].of for name in names)
    kept = CAPS[isa][1]["ONEDNN_MAX_CPU_ISA"]
    return TrialRow(f"{NAMES['openvino']} kept to {kept}", layers, outputs, *wrong)


def _kernel(subject: Subject, treatment: Treatment, batches: Sequence[Batch]) -> TrialRow:
    wrong, outputs, target = [], 0, OLD.fastest()
    for treated in (as_it_is(subject, BLOCKS), treatment):
        _, codes = recorded(prepared(subject.quantized.model, treated), batches)
        differ = 0
        for name, t in treated.items():
            exact = gemm_u8s8s32(codes[name], t.linear.codes)
            differ += int((OLD.run(target, codes[name], t.stored) != exact).sum())
            outputs += exact.size
        wrong.append(differ)
    return TrialRow(f"{target} {OLD.name}", len(treatment), outputs // 2, *wrong)
