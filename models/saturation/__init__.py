"""The command ``saturation``: what CPUs without VNNI do to a model, why, and what each remedy gives."""
