"""Make the embedded model: ``python asv_bench/embedded.py OUT --data DIR``.

OUT is a folder that ``refimpl compress --recipe`` made. Its packed file is copied into models/embedded/, and beside it
goes what is known of it: its digest, how it was made, and its accuracy, measured here on DIR, before and after
compression. ``readme.py --only embedded`` tells it.
"""

import argparse
import json
import shutil
import textwrap
from hashlib import sha256
from pathlib import Path
from typing import Any

from compression import short

from refimpl.models import packed_file
from refimpl.models.embedded import embedded_model
from refimpl.models.files import atomic
from refimpl.models.recipes.artifacts import PACKED
from refimpl.models.recipes.run import REPORT
from refimpl.models.runner import runner
from refimpl.models.training.evaluation import QUESTIONS

FACTS = embedded_model().with_suffix(".json")


def measure(path: Path, task: str, data: Path) -> tuple[int, dict[str, float]]:
    """Rows for evaluation, and metrics on the engine."""
    loaded = packed_file.load(path)
    questions = QUESTIONS[task](data, loaded.tokenizer)
    answers = questions.ask(runner(loaded), lambda done, of: None)
    return len(answers), questions.score(answers)


def make(folder: Path, data: Path) -> None:
    """Copy, measure, write."""
    report = json.loads((folder / REPORT).read_text("utf-8"))
    with atomic(embedded_model()) as temporary:
        shutil.copyfile(folder / PACKED, temporary)
    rows, metrics = measure(embedded_model(), report["task"], data)
    facts = {
        "sha256": sha256(embedded_model().read_bytes()).hexdigest(),
        "task": report["task"],
        "rows": rows,
        "metrics": metrics,
        "before": report["baseline"],
        "encoder": report["sizes"]["encoder"],
        "recipe": report["recipe"]["name"],
        "command": short(report["command"]),
        "seed": report["seed"],
        "version": report["version"],
    }
    with atomic(FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def told() -> str:
    """For README.md."""
    facts: dict[str, Any] = json.loads(FACTS.read_text("utf-8"))
    ends = ", ".join(
        f"{name} {value:.2f} % (the f32 model before: {facts['before'][name]:.2f} %)"
        for name, value in facts["metrics"].items()
    )
    encoder = facts["encoder"]
    size = f"its encoder takes {encoder['after'] / 1e6:.1f} MB, {encoder['ratio']:.1f} times less than in f32"
    words = f"On the {facts['rows']} sentences of SST-2's dev set: {ends}. By the recipe {facts['recipe']}; {size}."
    return textwrap.fill(words, 120, break_on_hyphens=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    make(given.out.resolve(), given.data.resolve())
