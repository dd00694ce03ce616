"""What the tools share: ``whole_model.py`` builds models and batches for measurements,
``results.py`` and ``drawing.py`` write what was found."""
