"""``refimpl run``: texts in, labels, answers, words or neighbours out."""
