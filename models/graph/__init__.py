"""``refimpl graph``: the operators of a model as other engines receive it, and the plan that ours makes of them."""
