"""Table 6: from what was measured to what may be said, one check a line."""

from refimpl.models.verify.fp32 import OURS
from refimpl.models.verify.report import AccumulatorRow, Check, Report


def checks(report: Report) -> list[Check]:
    """The verdict of a report whose other fields are filled."""
    made = [*_f32(report, OURS), _bits(report)]
    if report.decisions:
        made += [_codes(report, OURS), Check(f"{OURS}: decides as NumPy", report.decides, report.decisions)]
    for engine in report.engines:
        made += [*_f32(report, engine), _integers(report, engine), _codes(report, engine)]
    made += [
        Check(f"{row.engine}: integer MatMul", row.different == 0, _accumulators(row)) for row in report.accumulators
    ]
    return made


def _accumulators(row: AccumulatorRow) -> str:
    equal = f"{row.accumulators - row.different:,} of {row.accumulators:,} accumulators equal"
    return f"{equal}; {row.clipped:,} others are sums of pairs clipped to 16 bits" if row.clipped else equal


def _f32(report: Report, engine: str) -> list[Check]:
    """None where there is no f32 model."""
    if not report.fp32:
        return []
    rows = [row for row in report.fp32 if row.engine == engine]
    outside = sum(row.outside for row in rows)
    detail = f"{outside:,} of {sum(row.elements for row in rows):,} values outside{_first(report, 'f32', engine)}"
    return [Check(f"{engine}: f32 within derived bounds", outside == 0, detail)]


def _first(report: Report, precision: str, engine: str) -> str:
    fault = report.faults.get(f"{precision} {engine}")
    return f"; first: {fault}" if fault else ""


def _bits(report: Report) -> Check:
    different = sum(row.different_codes + row.different_accumulators for row in report.bits)
    counts = ", ".join(
        f"{row.execution.removesuffix(' kernel')} {row.codes + row.accumulators:,}" for row in report.bits
    )
    first = next((f"; first: {row.first} ({row.execution})" for row in report.bits if row.first), "")
    return Check(f"{OURS}: kernels = NumPy", different == 0, f"{different:,} integers differ of {counts}{first}")


def _integers(report: Report, engine: str) -> Check:
    ran, all_, distinct = report.integer_layers[engine], report.products, report.distinct_layers
    what = "linear layers" if report.attention == "f32" else "products"
    merged = f", {distinct} of them distinct" if distinct < all_ else ""
    return Check(f"{engine}: runs in integers", distinct <= ran <= all_, f"{ran} of {all_} {what}{merged}")


def _codes(report: Report, engine: str) -> Check:
    rows = [row for row in report.int8 if row.engine == engine]
    least, outside = min(row.own_equal for row in rows), sum(row.outside for row in rows)
    detail = f"{outside:,} values outside{_first(report, 'INT8', engine)}; {least:.4%} of codes equal or more"
    return Check(f"{engine}: INT8 on its own inputs", outside == 0, detail)
