"""What the tools share: ``launch.py`` reads command lines and configs and starts processes,
``preflight.py`` finds wrong paths and class counts before anything is built, ``torchrun.py`` starts
several processes, ``steps.py`` runs the tools as steps of something larger, ``whole_model.py``
builds models and batches for measurements, ``results.py`` and ``drawing.py`` write what was found.
"""
