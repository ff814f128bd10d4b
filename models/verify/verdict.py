"""Step 6: from what was measured to what may be said, one check a line."""

from refimpl.models.verify.fp32 import OURS
from refimpl.models.verify.report import Check, Report


def checks(report: Report) -> list[Check]:
    """The verdict of a report whose other fields are filled."""
    made = [_f32(report, OURS), _bits(report)]
    for engine in report.engines:
        made += [_f32(report, engine), _integers(report, engine), _codes(report, engine)]
    made += [
        Check(
            f"{row.engine}: integer MatMul",
            row.different == 0,
            f"{row.accumulators - row.different:,} of {row.accumulators:,} accumulators equal",
        )
        for row in report.accumulators
    ]
    return made


def _f32(report: Report, engine: str) -> Check:
    rows = [row for row in report.fp32 if row.engine == engine]
    worst = max(rows, key=lambda row: row.worst)
    outside = sum(row.outside for row in rows)
    where = f", in {worst.tap}" if outside else ""
    detail = f"{outside:,} of {sum(row.elements for row in rows):,} outside; worst {worst.worst:.2f}{where}"
    return Check(f"{engine}: f32 within derived bounds", outside == 0, detail)


def _bits(report: Report) -> Check:
    different = sum(row.different_codes + row.different_accumulators for row in report.bits)
    total = sum(row.codes + row.accumulators for row in report.bits)
    names = ", ".join(row.execution.removesuffix(" kernel") for row in report.bits)
    return Check(f"{OURS}: {names} = NumPy", different == 0, f"{total - different:,} of {total:,} integers equal")


def _integers(report: Report, engine: str) -> Check:
    expected, ran = report.exported_layers, report.integer_layers[engine]
    return Check(f"{engine}: runs in integers", ran == expected, f"{ran} of {expected} linear layers")


def _codes(report: Report, engine: str) -> Check:
    rows = [row for row in report.int8 if row.engine == engine]
    least, outside = min(row.own_equal for row in rows), sum(row.outside for row in rows)
    detail = f"{outside:,} values outside; at least {least:.4%} of codes equal"
    return Check(f"{engine}: INT8 on its own inputs", outside == 0, detail)
