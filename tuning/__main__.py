"""`python -m proxytune.tuning`: the command line where no console script is installed, as in a Ray job."""

from proxytune.tuning.cli import main

main()
