"""Moved to ``tools/instruments``."""

from ._moved import forward

module = forward(__name__, "instruments")
vars(module)["Answers"] = module.KeyActivations  # its name at the old place
