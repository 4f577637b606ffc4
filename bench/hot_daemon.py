"""`s3mount` with a profiler that the first real-time signal starts and the second stops, which writes a text.

The text goes to the file named first. Started as a script, so that `s3mount` is the one that PYTHONPATH names. Exact in
its counts; its times hold the profiler's own.
"""

import cProfile
import io
import pstats
import signal
import sys
from pathlib import Path

from s3mount.cli import main

LINES = 40


def serve(text: Path, arguments: list[str]) -> int:
    profiler = cProfile.Profile()

    def begin(_number: int, _frame: object) -> None:
        profiler.enable()

    def end(_number: int, _frame: object) -> None:
        profiler.disable()
        stream = io.StringIO()
        pstats.Stats(profiler, stream=stream).strip_dirs().sort_stats("tottime").print_stats(LINES)
        beside = text.with_suffix(".new")
        beside.write_text(stream.getvalue())
        beside.rename(text)

    signal.signal(signal.SIGRTMIN, begin)
    signal.signal(signal.SIGRTMIN + 1, end)
    sys.argv = ["s3mount", *arguments]
    return main()


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), sys.argv[2:]))
