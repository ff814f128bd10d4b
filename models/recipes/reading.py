"""A recipe from a file: our TOML, or NNCF's JSON (``nncf``); or one of those that ship, by its name.

    about = "..."
    [[stage]]
    do = "prune"
    epochs = 3
    sparsity = 0.8
    distil = { loss = "kl_batchmean", temperature = 2, weight = 0.9 }

A key that there is not is an error that names the nearest there is.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from refimpl.models.recipes import nncf
from refimpl.models.recipes.keys import check_keys, nearest
from refimpl.models.recipes.kinds import Distillation, Movement
from refimpl.models.recipes.recipe import KINDS, Recipe, Stage

SHIPPED = Path(__file__).parent / "shipped"
MOST_BYTES = 1 << 20
TYPES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", Distillation: "a table"}


def names() -> list[str]:
    """Of the recipes that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(given: str, task: str) -> Recipe:
    """A recipe by its name or from a file.

    Parameters
    ----------
    task : gives what NNCF's JSON leaves to the command that reads it

    Raises
    ------
    FileNotFoundError
        there is neither a file nor a recipe of this name
    ValueError
        the file is no recipe, or says what cannot be
    """
    path = SHIPPED / f"{given}.toml" if given in names() else Path(given)
    if not path.is_file():
        wrong = "does not exist" if path.suffix in (".toml", ".json") else "is neither a file nor one that ships"
        raise FileNotFoundError(f"--recipe: {given} {wrong}; need a file, or one of {', '.join(names())}")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{given} has {path.stat().st_size} bytes; need a recipe of at most {MOST_BYTES}")
    try:
        text = path.read_text("utf-8")
        values = json.loads(plain_json(text)) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{given} is no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    try:
        return parse(nncf.translate(values, task) if path.suffix == ".json" else values, path.stem)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None


def plain_json(text: str) -> str:
    """NNCF's JSON, with // comments and commas before ] and }, as JSON has it: spaces are in their place.

    >>> plain_json('[1, "//,]", ] // one')
    '[1, "//,]"  ]       '
    """
    for other in (r"//[^\n]*", r",(?=\s*[\]}])"):
        text = re.sub(rf'("(?:[^"\\]|\\.)*"?)|{other}', lambda found: found[1] or " " * len(found[0]), text)
    return text


def parse(values: Mapping[str, Any], name: str) -> Recipe:
    """The object in a TOML file."""
    check_keys(values, ("about", "stage"))
    stages, about = values.get("stage", []), values.get("about", "")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("stage is no list of tables; need [[stage]] before each")
    if not isinstance(about, str):
        raise ValueError(f"about is {about!r:.80}; need a text")
    made = []
    for i, stage in enumerate(stages):
        try:
            made.append(_stage(stage))
        except (ValueError, OverflowError) as error:  # an integer that is no float
            raise ValueError(f"stage {i + 1}: {error}") from None
    return Recipe(name, about, tuple(made))


def _stage(values: Mapping[str, Any]) -> Stage:
    do = values.get("do")
    if not isinstance(do, str) or do not in KINDS:
        raise ValueError(f"do is {do!r:.80}; need {nearest(str(do), KINDS)}")
    if do == Movement.do and "sparsity" in values:
        raise ValueError(f'{do} has no sparsity, its factor decides; to say the share: do = "prune", method = "{do}"')
    rest = {key: value for key, value in values.items() if key != "do"}
    if isinstance(rest.get("distil"), dict):
        rest["distil"] = record(Distillation, rest["distil"])
    made: Stage = record(KINDS[do], rest)
    return made


def record(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with these values; its own checks follow those of keys and types here."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name != "do"}
    check_keys(values, hints)
    typed = {key: _typed(key, value, hints[key]) for key, value in values.items()}
    missing = [key for key in keys_of(kind)[0] if key not in typed]
    if missing:
        is_, it = ("are", "them") if len(missing) > 1 else ("is", "it")
        raise ValueError(f"{', '.join(missing)} {is_} missing; need {it}")
    return kind(**typed)


def keys_of(kind: Any) -> tuple[list[str], dict[str, str]]:
    """What a table of a file must have, and what it may have, each with its default as TOML has it."""
    needed, others = [], {}
    for field in fields(kind):
        if field.default is MISSING:
            needed.append(field.name)
        else:
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            others[field.name] = "none" if value is None else json.dumps(value)
    return needed, others


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value, if it has the type: an integer may stand for a float, a list for a tuple."""
    wanted = [part for part in (get_args(hint) or (hint,)) if part is not type(None)]
    if getattr(hint, "__origin__", None) is tuple:
        if isinstance(value, list) and value and all(type(part) is int for part in value):
            return tuple(value)
        raise ValueError(f"{key} is {value!r:.80}; need a list of integers")
    if float in wanted and type(value) is int:
        return float(value)
    if type(value) not in wanted:
        raise ValueError(f"{key} is {value!r:.80}; need {' or '.join(TYPES[part] for part in wanted)}")
    return value
