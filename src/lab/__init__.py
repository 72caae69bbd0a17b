"""What the experiments share: data, models, training, results, the command line."""

import sys

if sys.platform == "win32":  # there are no file locks, nor signals, as the rest relies on
    sys.exit(
        "error: the experiments run on Linux and macOS: on Windows take WSL. "
        "The measures alone (pip install .) run wherever torch does."
    )
