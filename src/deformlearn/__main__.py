"""`python -m deformlearn` is the command `deformlearn`."""

from deformlearn.cli import main

main()
