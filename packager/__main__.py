"""`python -m packager`, where the distribution's scripts are not installed: in the image that compiles."""

from packager import main

main()
