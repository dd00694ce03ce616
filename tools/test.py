"""The script of ``mmmetaformer test``."""

from mmmetaformer.commands.test import main
from mmmetaformer.engine.launch import run_cli

if __name__ == "__main__":
    run_cli(main)
