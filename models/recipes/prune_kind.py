"""The stage that prunes up to a share: its kind, and what each of its methods is where a recipe says no more."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from refimpl import check
from refimpl.models.recipes.kinds import Training, among, at_least, check_block
from refimpl.prune import BLOCK_4X1


class Ways(NamedTuple):
    """How a pruning goes; None for what a method has not."""

    criterion: str | None
    schedule: str | None
    ranking: str | None


METHODS = {
    "one-shot": Ways("magnitude", None, "layer"),
    "prune-ofa": Ways("magnitude", "zhu_gupta_cubic", "layer"),
    "inc": Ways("snip_momentum", "inc_exp", "global"),
    "movement": Ways(None, "zhu_gupta_cubic", None),
}
"""Each with what its keys are where a recipe leaves them out."""


@dataclass(frozen=True, kw_only=True)
class Prune(Training):
    """begin, end: shares of the updates between which masks change, every ``every`` updates.

    method: one-shot, at ``begin``; PruneOFA's; Intel Neural Compressor's; movement: learned scores, each layer alike.
    criterion, schedule, ranking (each layer alike, or all layers ranked together): the method's own of ``METHODS``
    where they are left out; the criterion movement is the plain sum of what the method movement learns by AdamW.
    rewind: at every change the learning rate goes back to where it was at the last, and falls anew:
    ``refimpl.prune.rewinding``; it is higher than ``learning_rate`` where masks change before the warm-up ends.
    """

    do: ClassVar[str] = "prune"
    sparsity: float
    method: str = "prune-ofa"
    criterion: str | None = None
    schedule: str | None = None
    ranking: str | None = None
    rewind: bool = False
    block: tuple[int, int] = BLOCK_4X1
    begin: float = 0.0
    end: float = 0.6
    every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check.fraction("sparsity", self.sparsity)
        among("method", self.method)
        check_block(self.block)
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(f"begin and end are {self.begin:g} and {self.end:g}; need 0 <= begin < end <= 1")
        at_least("every", self.every, 1)
        own = METHODS[self.method]
        for name in Ways._fields:
            given = getattr(self, name)
            if given is not None:
                among(name, given)
                if getattr(own, name) is None:
                    raise ValueError(f"the method {self.method} has no {name}; need it left out")
        if self.rewind and own.schedule is None:
            raise ValueError(f"the method {self.method} has no rewind; need it left out")
        if self.rewind and not self.warmup < 1 - (self.end - self.begin):
            most = f"{1 - (self.end - self.begin):g}, what begin and end leave"
            raise ValueError(f"warmup is {self.warmup:g}; need less than {most}, to rewind")

    @property
    def ways(self) -> Ways:
        """Those of the recipe, or else the method's."""
        own = METHODS[self.method]
        return Ways(self.criterion or own.criterion, self.schedule or own.schedule, self.ranking or own.ranking)
