"""A recipe's report as one HTML file that needs nothing else: stages, three figures, sizes, engines.

The figures are those of OpenVINO's article on JPQD: sparsity over the updates (its figure 2), parameters of each linear
layer before and after (figure 3), heads of each layer that are left (figure 4). ``page.js`` draws them as SVG.
"""

import json
from pathlib import Path
from typing import Any

from refimpl.models.page import fill
from refimpl.models.training.evaluation import SMALLER_IS_BETTER


def page(report: dict[str, Any]) -> str:
    """The text of the file. A number that is not finite, as a loss may be, is shown as none."""
    data = json.loads(
        json.dumps(report | {"smaller_is_better": sorted(SMALLER_IS_BETTER)}), parse_constant=lambda name: None
    )
    return fill(Path(__file__).parent, f"{report['recipe']['name']}: {report['task']}", data)
