"""Where the command begins: Ctrl-C ends it with one line from its first moment on, while its libraries are still being loaded too."""

import sys

INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def main() -> None:
    try:
        from turnpike_cli.__main__ import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(INTERRUPTED) from None
