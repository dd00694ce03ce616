"""What the tools share: ``launch.py`` reads configs and starts processes, ``preflight.py`` finds
wrong paths and class counts before anything is built, ``hooks.py`` are runner hooks,
``torchrun.py`` starts several processes. For configs: ``layer_decay.py``, learning rates by
depth."""
