"""The script of ``mmmetaformer convert``."""

from mmmetaformer.commands.convert import main
from mmmetaformer.engine.launch import run_cli

if __name__ == "__main__":
    run_cli(main)
