"""Where every thread and every asyncio task of the process stands."""

import asyncio
import io
import sys
import threading
import traceback
from typing import Any, Final

MOST_TASKS: Final = 1000
"""Tasks that are shown; the others are counted."""


def stacks(loop: asyncio.AbstractEventLoop) -> bytes:
    """Text for people; call it on the event loop, whose tasks it shows."""
    frames = sys._current_frames()
    tasks = asyncio.all_tasks(loop)
    threads = threading.enumerate()
    parts = [f"{len(threads)} threads, {len(tasks)} tasks\n"]
    for thread in threads:
        kind = ", daemon" if thread.daemon else ""
        parts.append(f'\nthread {thread.native_id} "{thread.name}"{kind}:\n')
        if (frame := frames.get(thread.ident or 0)) is not None:
            parts += traceback.format_stack(frame)
    for task in sorted(tasks, key=_age)[:MOST_TASKS]:
        text = io.StringIO()
        task.print_stack(file=text)
        parts.append(f"\n{text.getvalue()}")
    return "".join(parts).encode("utf-8", "backslashreplace")


def _age(task: "asyncio.Task[Any]") -> tuple[int, str]:
    """Sorts "Task-2" before "Task-10"."""
    name = task.get_name()
    return len(name), name
