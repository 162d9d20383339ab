"""A process that a test controls by lines of JSON: one request, one answer, gone with the test."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

END_SECONDS = 10.0


class ChildError(RuntimeError):
    """The process cannot do what it is for; the text says why."""


class Child:
    """`python -m <module> <arguments>`, which first says what it has made, or why it could not."""

    def __init__(self, module: str, *arguments: object) -> None:
        """Start it; ChildError if it could not."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        try:
            self.made = self._answer()
        except ChildError:
            self.close()
            raise

    def ask(self, request: object) -> dict[str, Any]:
        """Send a request; return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it, by the end of its input."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_SECONDS)
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ChildError(f"{self.process.args!r} ended: {self.process.wait(END_SECONDS)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer


def say(answer: dict[str, object]) -> None:
    """In the process: answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
