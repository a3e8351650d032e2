"""The command line from a checkout: `python main.py` shows what there is (ds2_jax/cli/main.py)."""

from ds2_jax.cli.main import main

if __name__ == "__main__":
    main()
