"""The script of ``mmmetaformer train``."""

from mmmetaformer.commands.train import main
from mmmetaformer.engine.launch import run_cli

if __name__ == "__main__":
    run_cli(main)
