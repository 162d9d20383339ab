"""A short load with h2load: every request of many connections is answered."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import uvloop

from .peer import prefixed, serving


@pytest.mark.skipif(not shutil.which("h2load"), reason="needs h2load (nghttp2-client)")
@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (16, 16), (4, 500)])
def test_h2load(tmp_path: Path, connections: int, streams: int) -> None:
    body = tmp_path / "body"
    body.write_bytes(prefixed(bytes(300)))
    with serving(new_loop=uvloop.new_event_loop) as running:
        count = 2000 if streams == 1 else 20_000
        command = f"h2load -n {count} -c {connections} -m {streams} -d {body}".split()
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += [f"http://127.0.0.1:{running.port}/test.Test/Echo"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    print(done.stdout)
    assert f"{count} done, {count} succeeded, 0 failed" in done.stdout
    sizes = re.search(r"\((\d+)\) data", done.stdout)
    assert sizes
    assert int(sizes[1]) == count * 305
