"""What rows of compression.py are, by their stages, and the bars that the project set itself before it measured.

dense     at least 90.5 on SST-2
PTQ, QAT  at most 0.5 and 0.3 points below the dense row that they began with
4x1       80 %: at most 1.5, the aim 1.0; 90 %: at most 3, the aim 2
JPQD      at most 1.0, the encoder at least 5.2 times smaller
student   on the teacher's logits (MSE) better than the same on labels
"""

from typing import Any, NamedTuple

Row = dict[str, Any]
TASKS = {"sst2": ("SST-2", "accuracy"), "squad": ("SQuAD 1.1", "F1")}
"""Task -> its name, and the metric that counts."""
DENSE, DENSE_LEAST = "dense", 90.5
JPQD_RATIO = 5.2


class Bar(NamedTuple):
    """What a row must reach; got: in words; met: None where it cannot be told."""

    what: str
    got: str
    met: bool | None


class Page(NamedTuple):
    """The rows of a task, in order, and where they stand."""

    task: str
    rows: list[Row]

    @property
    def metric(self) -> str:
        """The one that counts."""
        return TASKS[self.task][1]

    def dense_of(self, row: Row) -> float:
        """The metric of the dense row that a recipe began with: the one that its command names, on as many rows; where
        none is, what the recipe itself measured before it began."""
        model = row["command"].split()[2]
        dense = [other for other in self.rows if kind(other) == DENSE]
        named = [other for other in dense if (other["name"], other["limit"]) == (model, row["limit"])]
        return named[0]["trained"][self.metric] if named else row["baseline"][self.metric]

    def int8(self, row: Row) -> float:
        """The metric on our engine, as stored."""
        return row["engines"][0]["metrics"][self.metric]

    def below(self, row: Row) -> float:
        """Points below dense."""
        return round(self.dense_of(row) - self.int8(row), 6)


def stage_of(row: Row, do: str) -> dict[str, Any] | None:
    """The first stage that does so."""
    return next((stage for stage in row["recipe"]["stages"] if stage["do"] == do), None)


def _student_loss(row: Row) -> str:
    losses = [(stage.get("distil") or {}).get("loss") for stage in row["recipe"]["stages"] if "epochs" in stage]
    return losses[0] or "labels" if losses else ""


def kind(row: Row) -> str:
    """By its stages: dense, PTQ, QAT, 4x1, JPQD, student, or other."""
    stages = row["recipe"]["stages"]
    does = [stage["do"] for stage in stages]
    if not stages:
        return DENSE
    if "student" in does:
        return "student"
    moved, pruned = stage_of(row, "movement"), stage_of(row, "prune")
    if moved is not None and moved["quantize"]:
        return "JPQD"
    if pruned is not None and list(pruned["block"]) == [4, 1]:
        return "4x1"
    if stages[0].get("overflow_fix") == "disable" and len(stages) == 1:
        return {"quantize": "PTQ", "quantize-aware": "QAT"}.get(does[0], "other")
    return "other"


KINDS = (DENSE, "PTQ", "QAT", "4x1", "JPQD", "student", "other")
MOST = {"PTQ": (0.5,), "QAT": (0.3,), "JPQD": (1.0,)}
MOST_4X1 = {0.8: (1.5, 1.0), 0.9: (3.0, 2.0)}
"""Points below dense: at most, and at best."""
TRIED = {
    DENSE: """\
Tried for a better dense row: learning rates up to 2e-4, batches of 32 and 64, more seeds, a second model that meets the
first one's hidden states, means of the weights of several, one more epoch on long phrases, ten epochs of masked words
of the training sentences before. The base was trained to tell which sentences mean the same, not what they say of a
film. Not tried: R-Drop, adversarial training.""",
    "4x1": """\
Tried for the aims of pruning: each layer pruned alike and all ranked together, several weights of hidden states, with
and without dropout. Next would be more epochs.""",
}
"""What was done about bars of a kind that are missed."""


def bars(page: Page, row: Row) -> list[Bar]:
    """Of a row; a trial on a few rows has none."""
    found = kind(row)
    if row["limit"] is not None:
        return []
    if found == DENSE:
        value = row["trained"][page.metric]
        least = f"at least {DENSE_LEAST}"
        return [Bar(least, f"{value:.2f}", round(value, 6) >= DENSE_LEAST)] if page.task == "sst2" else []
    most = MOST.get(found, ())
    if found == "4x1":
        most = MOST_4X1.get(round((stage_of(row, "prune") or {})["sparsity"], 6), ())
    below = page.below(row)
    words = ("at most {} below dense", "the aim, at most {}")
    made = [Bar(word.format(x), f"{below:.2f}", below <= x) for word, x in zip(words, most, strict=False)]
    if found == "JPQD":
        ratio = row["sizes"]["encoder"]["ratio"]
        made.append(Bar(f"the encoder at least {JPQD_RATIO} times smaller", f"{ratio:.2f}", ratio >= JPQD_RATIO))
    if found == "student" and _student_loss(row) == "mse_logits":
        made += _students(page, row)
    return made


def _students(page: Page, row: Row) -> list[Bar]:
    """Against the same student, of the same dense model and seed, that was trained on labels."""
    layers = (stage_of(row, "student") or {})["layers"]
    same = [
        other
        for other in page.rows
        if kind(other) == "student" and _student_loss(other) == "labels" and other["limit"] is None
        and (stage_of(other, "student") or {})["layers"] == layers and other["seed"] == row["seed"]
        and page.dense_of(other) == page.dense_of(row)
    ]  # fmt: skip
    what = "better than the same student on labels"
    if not same:
        return [Bar(what, "no such row", None)]
    theirs, ours = page.int8(same[0]), page.int8(row)
    return [Bar(what, f"{ours:.2f} against {theirs:.2f}", ours > theirs)]


VERDICTS = {True: "met", False: "missed", None: "not told"}


def said(bar: Bar) -> str:
    """In words."""
    return f"{bar.what}: {bar.got}, {VERDICTS[bar.met]}"
