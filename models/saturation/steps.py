"""The examination, step by step, into one ``Report``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from refimpl import check
from refimpl.models.compress import Dense, Packed
from refimpl.models.files import check_output
from refimpl.models.saturation.fix import layout_of, write
from refimpl.models.saturation.layouts import BLOCKS, DENSE, LAYOUTS, Layout
from refimpl.models.saturation.measure import layer_rows, remedy_rows
from refimpl.models.saturation.remedies import NOT_WRITTEN, Treatment, offered, treatment
from refimpl.models.saturation.report import Report
from refimpl.models.saturation.run import batched
from refimpl.models.saturation.subject import from_dense, from_packed
from refimpl.models.saturation.timing import timed
from refimpl.models.saturation.trial import trials

OWN_TEXTS = 12
"""How many of our own texts are run; all calibrate. All of a user's are run."""

Say = Callable[[str], None]


class Request(NamedTuple):
    """What the user asked for. all_texts: run every text; layout: a name, or None for how the model is stored; time:
    whether to measure what the remedies cost."""

    name: str
    texts: Sequence[str]
    all_texts: bool
    sparsity: float | None = None
    layout: str | None = None
    fix: str | None = None
    output: Path | None = None
    force: bool = False
    time: bool = False

    def checked(self, loaded: Dense | Packed) -> "Request":
        """With the layout filled in. Raises ValueError for what cannot be, before any work."""
        check.fraction("--sparsity", self.sparsity or 0.0)
        if isinstance(loaded, Packed) and self.sparsity is not None:
            raise ValueError(f"{self.name} is packed already, so that --sparsity cannot change it; leave it out")
        if (self.fix is None) != (self.output is None):
            raise ValueError("--fix NAME and -o FILE go together; need both or neither")
        layout = self.layout or (BLOCKS.name if isinstance(loaded, Packed) or self.sparsity else DENSE.name)
        if self.output is not None:
            check_output(self.output, self.force)
            if self.layout not in (None, layout_of(self.output).name):
                raise ValueError(f"{self.output} would be {layout_of(self.output).name}; --layout is {self.layout}")
            layout = layout_of(self.output).name
        if layout not in LAYOUTS:
            raise ValueError(f"--layout is {layout}; need {' or '.join(LAYOUTS)}")
        if self.fix is not None:
            _check_fix(self.fix, LAYOUTS[layout])
        return self._replace(layout=layout)


def _check_fix(name: str, layout: Layout) -> None:
    names = [key for key in offered(layout) if key not in NOT_WRITTEN]
    if name not in names:
        why = f", for which {NOT_WRITTEN[name]}" if name in NOT_WRITTEN else ""
        raise ValueError(f"--fix is {name}{why}; need one of {', '.join(names)} for a file in the {layout.name} layout")


def count_steps(request: Request, layers: int) -> int:
    """How often ``examine`` says something of a model with so many linear layers."""
    remedies = len(offered(LAYOUTS[request.layout or DENSE.name]))
    return 2 + remedies + layers * request.time + (request.fix is not None)


def examine(loaded: Dense | Packed, request: Request, say: Say = lambda step: None) -> Report:
    """Everything that the request asks for. request: ``checked``."""
    say("quantize")
    layout = LAYOUTS[request.layout or DENSE.name]
    if isinstance(loaded, Packed):
        subject = from_packed(loaded)
    else:
        subject = from_dense(loaded, request.texts, request.sparsity or 0.0)
    texts = request.texts if request.all_texts else request.texts[:OWN_TEXTS]
    batches = batched(loaded.tokenizer, texts)
    tokens = sum(int(batch.mask.sum()) for batch in batches)
    report = Report(request.name, layout.name, request.sparsity, len(texts), tokens)
    say("layers")
    report.layers = layer_rows(subject, layout, batches)
    report.dense = [] if layout is DENSE else layer_rows(subject, DENSE, batches)
    done: dict[str, Treatment] = {}
    report.remedies, report.largest_output = remedy_rows(subject, layout, batches, done, say)
    if request.time:
        found = timed(subject, layout, batches, done, say)
        report.kernel, report.timed_tokens = found.kernel, found.tokens
        report.remedies = [replace(row, **found.costs[row.name]._asdict()) for row in report.remedies]
    if request.fix is not None and request.output is not None:
        say("write and run")
        treated = treatment(subject, layout, request.fix, done)
        write(subject, treated, request.output)
        report.fix, report.file = request.fix, str(request.output)
        report.trials = trials(subject, treated, request.output, batches)
    return report
