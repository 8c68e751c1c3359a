"""The process of one scorer: `scorer_child.py package.module:function FOLDER START_S TIMEOUT_S`. Imports nothing of ours.

Says {"ready": true} or {"error": ...}; then, for each JSON line in, {"score": number} or {"error": ...}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from importlib.metadata import EntryPoint

MAX_MEMORY_BYTES = 4 << 30
GRACE_S = 1.0
"""How much later than our parent's patience the alarm ends us: only where there is no parent any more."""


def main() -> int:
    """Until there are no more lines."""
    entry, folder = sys.argv[1:3]
    start_s, timeout_s = map(float, sys.argv[3:5])
    signal.setitimer(signal.ITIMER_REAL, start_s + GRACE_S)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what a scorer prints must not stand among the answers
    sys.path[0] = folder

    def say(**answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        function = EntryPoint("scorer", entry, "rejoinder.scorers").load()
    except Exception as error:  # noqa: BLE001  the developer's code: whatever it raises is told to the other side
        say(error=_shown(error))
        return 1
    say(ready=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S)
        try:
            say(score=function(json.loads(line)))
        except Exception as error:  # noqa: BLE001  as above
            say(error=_shown(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


if __name__ == "__main__":
    sys.exit(main())
