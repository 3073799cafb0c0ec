"""Stand-ins for S3 and Google Cloud Storage: objects over HTTP, written under conditions.

Only what ``s3fs`` and ``gcsfs`` ask for where ``shared.objects`` uses them; requests are not
authenticated. Conditions are judged and met under one lock, as both services promise:

- S3, ``PutObject``: with ``If-None-Match: *`` 412 PreconditionFailed where the key exists, 409
  ConditionalRequestConflict where another writer was at it, upon which one has to upload again.
- GCS, JSON API: with ``ifGenerationMatch=0`` 412 conditionNotMet where the object exists.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from xml.sax.saxutils import escape

BUCKET = "bucket"


@dataclass
class Bucket:
    """Objects of one bucket, and what goes wrong with writes under a condition."""

    objects: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    refused: Counter[int] = field(default_factory=Counter)  # status -> writes that got it
    conditional: int = 0  # writes under a condition so far
    conflicts: int = 0  # of these, each n-th meets another writer, of S3; 0 for none
    begin: threading.Barrier | None = None  # at which the first of these wait for each other
    is_away: bool = False  # no request gets an answer
    lost: int = 0  # of these, each n-th is done and its answer lost; 0 for none

    def put(self, key: str, data: bytes, *, new: bool) -> int:
        """Write an object; return the HTTP status, 0 for one that never arrives."""
        if new and self.begin is not None:
            self.begin.wait(60)
            self.begin = None
        with self.lock:
            self.conditional += new
            if new and self.conflicts and not self.conditional % self.conflicts:
                status = 409
            elif new and key in self.objects:
                status = 412
            else:
                self.objects[key] = data
                status = 0 if new and self.lost and not self.conditional % self.lost else 200
            self.refused[status] += 1
            return status

    def remove(self, key: str) -> bool:
        with self.lock:
            return self.objects.pop(key, None) is not None

    def below(self, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
        """Return the keys with a prefix, and the folders among them instead of what is in these."""
        with self.lock:
            found = sorted(key for key in self.objects if key.startswith(prefix))
        cut = {
            key: prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter
            for key in found
            if delimiter and delimiter in key[len(prefix) :]
        }
        return [key for key in found if key not in cut], sorted(set(cut.values()))


class _Handler(BaseHTTPRequestHandler):
    """What both services have in common: bodies, ranges, and an answer that is lost."""

    bucket: ClassVar[Bucket]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass

    def parse_request(self) -> bool:
        if self.bucket.is_away:
            self._lose()
            return False
        return super().parse_request()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _url(self) -> tuple[str, dict[str, str]]:
        parts = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
        return parts.path, {name: values[0] for name, values in query.items()}

    def _send(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _lose(self) -> None:
        """End the connection without an answer."""
        self.close_connection = True

    def _send_object(self, key: str, **headers: str) -> bool:
        """Send an object, or the range of it that is asked for; return whether there is one."""
        data = self.bucket.objects.get(key)
        if data is None:
            return False
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self._send(200, data, **headers)
            return True
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        span = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[first : last + 1], Content_Range=span, **headers)
        return True


class S3(_Handler):
    """The bucket as S3 shows it, path-style."""

    NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
    CODES: ClassVar = {409: "ConditionalRequestConflict", 412: "PreconditionFailed"}

    def _key(self) -> tuple[str, dict[str, str]]:
        path, query = self._url()
        return urllib.parse.unquote(path).removeprefix(f"/{BUCKET}").removeprefix("/"), query

    def _fail(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._send(status, body, Content_Type="application/xml")

    def do_PUT(self) -> None:
        key, _ = self._key()
        status = self.bucket.put(key, self._body(), new=self.headers.get("If-None-Match") == "*")
        if not status:
            self._lose()
        elif status == 200:
            self._send(200, ETag='"0"')
        else:
            self._fail(status, self.CODES[status])

    def do_GET(self) -> None:
        key, query = self._key()
        if "list-type" in query:
            self._list(query)
        elif not self._send_object(
            key, ETag='"0"', Last_Modified=format_datetime(datetime.now(UTC), usegmt=True)
        ):
            self._fail(404, "NoSuchKey")

    do_HEAD = do_GET  # noqa: N815 - its name there

    def _list(self, query: dict[str, str]) -> None:
        keys, folders = self.bucket.below(query.get("prefix", ""), query.get("delimiter", ""))
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}"
        files = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.bucket.objects.get(key, b''))}"
            f"</Size><LastModified>{now}</LastModified><ETag>0</ETag></Contents>"
            for key in keys
        )
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in folders
        )
        count = f"<KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        body = f'<ListBucketResult xmlns="{self.NAMESPACE}">{count}{files}{prefixes}'
        self._send(200, f"{body}</ListBucketResult>".encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        self.bucket.remove(self._key()[0])
        self._send(204)

    def do_POST(self) -> None:
        """Remove several objects."""
        for key in re.findall(r"<Key>(.*?)</Key>", self._body().decode()):
            self.bucket.remove(key)
        body = f'<DeleteResult xmlns="{self.NAMESPACE}"></DeleteResult>'.encode()
        self._send(200, body, Content_Type="application/xml")


class Gcs(_Handler):
    """The bucket as the JSON API of Google Cloud Storage shows it."""

    OBJECT = re.compile(rf"(?:/download)?/storage/v1/b/{BUCKET}/o/([^?]+)")

    def _answer(self, status: int, content: object) -> None:
        self._send(status, json.dumps(content).encode(), Content_Type="application/json")

    def _fail(self, status: int, reason: str) -> None:
        errors = [{"reason": reason, "message": reason}]
        self._answer(status, {"error": {"code": status, "message": reason, "errors": errors}})

    def _about(self, key: str) -> dict[str, Any]:
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}"
        size = str(len(self.bucket.objects.get(key, b"")))
        return {"name": key, "bucket": BUCKET, "size": size, "updated": now, "timeCreated": now,
                "generation": "1"}  # fmt: skip

    def do_POST(self) -> None:
        path, query = self._url()
        if path.startswith("/batch/"):
            self._remove_all(self._body().decode())
            return
        head, data = self._body().split(b"\n--==0==\n", 1)
        key = json.loads(head.partition(b"\n\n")[2])["name"]
        content = data.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        status = self.bucket.put(key, content, new=query.get("ifGenerationMatch") == "0")
        if not status:
            self._lose()
        elif status == 200:
            self._answer(200, self._about(key))
        else:
            self._fail(status, "conditionNotMet")

    def _remove_all(self, body: str) -> None:
        """Answer a batch of removals, a part each."""
        paths = re.findall(r"^DELETE (\S+)", body, re.MULTILINE)
        parts = []
        for number, path in enumerate(paths, start=1):
            asked = self.OBJECT.search(path)
            gone = asked is not None and self.bucket.remove(urllib.parse.unquote(asked[1]))
            status = "204 No Content" if gone else "404 Not Found"
            parts.append(f"--batch\r\nContent-Type: application/http\r\n"
                         f"Content-ID: <response-{number}>\r\n\r\nHTTP/1.1 {status}\r\n"
                         "Content-Length: 0\r\n\r\n\r\n")  # fmt: skip
        data = ("".join(parts) + "--batch--").encode()
        self._send(200, data, Content_Type='multipart/mixed; boundary="batch"')

    def do_GET(self) -> None:
        path, query = self._url()
        asked = self.OBJECT.fullmatch(path)
        if asked is None:
            self._list(query)
            return
        key = urllib.parse.unquote(asked[1])
        if query.get("alt") == "media":
            if not self._send_object(key):
                self._fail(404, "notFound")
        elif key in self.bucket.objects:
            self._answer(200, self._about(key))
        else:
            self._fail(404, "notFound")

    def _list(self, query: dict[str, str]) -> None:
        keys, folders = self.bucket.below(query.get("prefix", ""), query.get("delimiter", ""))
        self._answer(200, {"items": [self._about(key) for key in keys], "prefixes": folders})

    def do_DELETE(self) -> None:
        asked = self.OBJECT.fullmatch(self._url()[0])
        if asked is None or not self.bucket.remove(urllib.parse.unquote(asked[1])):
            self._fail(404, "notFound")
        else:
            self._send(204)


class Server:
    """Serves a bucket on a free port while the context lasts."""

    def __init__(self, service: type[_Handler]) -> None:
        self.bucket = Bucket()
        handler = type("Handler", (service,), {"bucket": self.bucket})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="objects")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def environment(service: type[_Handler], address: str) -> dict[str, str]:
    """Return the variables by which a service's client finds a stand-in."""
    if service is S3:
        return {
            "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
    return {
        "STORAGE_EMULATOR_HOST": address, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "NO_GCE_CHECK": "true",
    }  # fmt: skip
