"""Generates rusd/pb/ from protos/*.proto; with --check, only says whether it is current.

Two edits are made to what protoc writes. Imports become `rusd.pb` ones, and the descriptors go into
a pool of rusd's own: the default pool is one for the process, and a second client library in it (a
test that uses rusd beside etcd3, say) registers the same message names.
"""

import filecmp
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
TARGET = PROTOS.parent / "rusd" / "pb"


def generate(target: Path) -> None:
    sources = sorted(path.name for path in PROTOS.glob("*.proto"))
    status = protoc.main(
        ["protoc", f"-I{PROTOS}", f"--python_out={target}", f"--pyi_out={target}", *sources]
    )
    if status != 0:
        raise SystemExit(status)
    for path in [*target.glob("*_pb2.py"), *target.glob("*_pb2.pyi")]:
        text = path.read_text()
        text = re.sub(r"^import (\w+_pb2)", r"from rusd.pb import \1", text, flags=re.M)
        text = text.replace("_descriptor_pool.Default()", "POOL")
        text = text.replace(
            "from google.protobuf import descriptor_pool as _descriptor_pool",
            "from rusd.pb.pool import POOL",
        )
        path.write_text(text)


def check() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        names = sorted(path.name for path in Path(scratch).iterdir())
        same, different, missing = filecmp.cmpfiles(scratch, TARGET, names, shallow=False)
    if different or missing:
        raise SystemExit(f"rusd/pb is not current, run `make protos`: {different + missing}")
    print(f"rusd/pb is current: {len(same)} files")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    else:
        generate(TARGET)
