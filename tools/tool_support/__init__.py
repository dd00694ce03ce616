"""What the tools share: ``steps.py`` runs the tools as steps of something larger,
``whole_model.py`` builds models and batches for measurements, ``results.py`` and ``drawing.py``
write what was found."""
