"""Keys of a file that a person writes: one that there is not is an error that names the nearest that there is."""

from collections.abc import Iterable
from difflib import get_close_matches


def check_keys(values: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first key that is not known."""
    for key in values:
        if key not in list(known):
            raise ValueError(f"the key {key!r:.80} is unknown; need {nearest(key, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or all that there is."""
    found = get_close_matches(name, list(known), 1)
    return repr(found[0]) if found else ", ".join(sorted(known))
