"""The verbs of the console command, one module each; ``mmmetaformer/__main__.py`` picks one."""
