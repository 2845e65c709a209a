"""`python -m sgpo`: the `sgpo` command."""

from sgpo.cli import main

if __name__ == "__main__":
    main()
