"""Training and evaluation: ``launch.py`` reads command lines and configs and starts processes,
``preflight.py`` finds wrong paths and class counts before anything is built, ``torchrun.py`` starts
several processes, ``hooks.py`` are runner hooks, ``layer_decay.py`` is the optimizer constructor
with learning rates by depth, ``compilation.py`` compiles backbones alone, ``complexity.py`` counts
parameters, operations and bytes, and ``steps.py`` trains and tests as part of something larger.
``errors.py``: errors that the user can mend."""
