"""``python -m api.cli`` is ``callboard``."""

from api.cli import main

if __name__ == "__main__":
    main(prog_name="callboard")
