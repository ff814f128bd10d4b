"""Everything that ``refimpl graph`` shows, as plain data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refimpl.models import compress
from refimpl.models.bench.variants import dequantized
from refimpl.models.bert import Batch, linears
from refimpl.models.compress import Packed
from refimpl.models.config import Config, to_json
from refimpl.models.graph.changes import PRODUCTS, Change, call_role, changes
from refimpl.models.graph.operators import HEAD, Operator, absorbed, written
from refimpl.models.information import attention_of, density_of
from refimpl.models.runtime.lines import line
from refimpl.models.runtime.session import Session, fill
from refimpl.models.runtime.steps import Plan
from refimpl.models.runtime.work import work


@dataclass(frozen=True)
class Report:
    """lengths: tokens of each text; files: "f32" and "INT8" -> operators of the file by type; absorbed: step, or the
    head -> its operators in the INT8 file; changes: of the operators; counts: of other things."""

    model: str
    config: Config
    density: float
    attention: str
    lengths: Sequence[int]
    plan: Plan
    files: Mapping[str, Counter[str]]
    absorbed: Mapping[str, Sequence[Operator]]
    changes: Sequence[Change]
    counts: Sequence[Change]

    def to_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
        arena = self.plan.arena
        return {
            "model": self.model,
            "config": to_json(self.config),
            "density": self.density,
            "attention": self.attention,
            "lengths": list(self.lengths),
            "shape": self.plan.shape._asdict(),
            "operators": {name: dict(counts) for name, counts in self.files.items()},
            "steps": [
                {**_line(found), "absorbs": self.types(found["name"])}
                for found in (line(step)._asdict() for step in self.plan.steps)
            ],
            "head": self.types(HEAD),
            "changes": [change._asdict() for change in (*self.changes, *self.counts)],
            "memory": {"tensors": len(arena.offsets), **{name: getattr(arena, name) for name in arena._fields[1:]}},
        }

    def types(self, step: str) -> dict[str, int]:
        """How many operators of each type a step, or the head, stands for, in the order of the file."""
        return dict(Counter(operator.op for operator in self.absorbed[step]))


def _line(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"writes": [made._asdict() for made in found["writes"]]}


def look(packed: Packed, name: str, texts: Batch) -> Report:
    """The plan for a batch of texts, beside the file."""
    quantized = compress.unpack(packed)
    file, session = written(quantized.model), Session(packed)
    ready = session.ready(session.shape(texts.mask))
    fill(ready, *texts)
    plan = ready.plan
    owned = absorbed(plan.steps, file, session.weights)
    products = sum(work(step, ready).integer for step in plan.steps if call_role(step.kernel) == PRODUCTS)
    positions, lanes = texts.mask.size, plan.shape.panels * plan.shape.width
    weights = sum(layer.weight.shape[0] * layer.weight.shape[1] for layer in linears(packed.model).values())
    return Report(
        name,
        packed.model.config,
        density_of(packed.model),
        attention_of(packed.model),
        texts.mask.sum(1).tolist(),
        plan,
        {"f32": _count(written(dequantized(quantized)).operators), "INT8": _count(file.operators)},
        owned,
        changes(plan.steps, owned),
        [
            Change("positions", positions, lanes, "no padding to the longest text, only to panels"),
            Change(
                "multiplications",
                weights * positions,
                products,
                "in linear layers; of 4x1 blocks, those that live",
            ),
        ],
    )


def _count(operators: Sequence[Operator]) -> Counter[str]:
    return Counter(operator.op for operator in operators)
