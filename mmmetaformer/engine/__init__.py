"""What configs name and figures need: ``hooks.py`` are runner hooks, ``layer_decay.py`` is the
optimizer constructor with learning rates by depth, ``compilation.py`` compiles backbones alone, and
``complexity.py`` counts parameters, operations and bytes. ``errors.py``: errors that the user can
mend."""
