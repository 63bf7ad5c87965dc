"""As much of S3 as the store uses, over real HTTP."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_TIME = "2026-01-01T00:00:00.000Z"


@dataclass
class Bucket:
    """What a server holds, by bucket and key.

    Attributes:
        url: The server's address.
        objects: The finished objects.
        uploads: The parts of those that are under way.
    """

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Serve, on a free port."""
    bucket = Bucket()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", headers.pop("Content_Length", str(len(body))))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def parse(self) -> tuple[str, dict[str, str], bytes]:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            assert "secret" not in str(self.headers)
            assert "AWS4-HMAC-SHA256 Credential=name/" in self.headers["Authorization"]
            return unquote(parts.path).strip("/"), query, body

        def do_PUT(self) -> None:
            key, query, body = self.parse()
            if "uploadId" in query:
                bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
            else:
                bucket.objects[key] = body
            self.answer(200, ETag='"1"')

        def do_POST(self) -> None:
            key, query, body = self.parse()
            if "uploads" in query:
                upload = f"upload-{len(bucket.uploads) + 1}"
                bucket.uploads[upload] = {}
                text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                self.answer(200, text.encode())
            elif "uploadId" in query:
                parts = bucket.uploads.pop(query["uploadId"])
                bucket.objects[key] = b"".join(parts[number] for number in sorted(parts))
                self.answer(200, b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>')
            elif "delete" in query:
                names = re.findall(r"<Key>(.*?)</Key>", body.decode())
                for name in names:
                    bucket.objects.pop(f"{key}/{name}", None)
                deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
                self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
            else:
                self.answer(501)

        def do_DELETE(self) -> None:
            key, query, _ = self.parse()
            if "uploadId" in query:
                bucket.uploads.pop(query["uploadId"], None)
            else:
                bucket.objects.pop(key, None)
            self.answer(204)

        def do_HEAD(self) -> None:
            key, _, _ = self.parse()
            found = bucket.objects.get(key)
            if found is None:
                self.answer(404)
            else:
                self.answer(200, Content_Length=str(len(found)), ETag='"1"', Last_Modified=_http_time())

        def do_GET(self) -> None:
            key, query, _ = self.parse()
            if "list-type" in query:
                self.list(key, query.get("prefix", ""))
                return
            found = bucket.objects.get(key)
            if found is None:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span is None:
                self.answer(200, found, ETag='"1"', Last_Modified=_http_time())
                return
            start, last = int(span[1]), min(int(span[2] or len(found)), len(found) - 1)
            self.answer(
                206,
                found[start : last + 1],
                Content_Range=f"bytes {start}-{last}/{len(found)}",
                ETag='"1"',
                Last_Modified=_http_time(),
            )

        def list(self, name: str, prefix: str) -> None:
            found = {
                key.removeprefix(f"{name}/"): data
                for key, data in sorted(bucket.objects.items())
                if key.startswith(f"{name}/{prefix}")
            }
            contents = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{_TIME}</LastModified><Size>{len(data)}</Size>"
                f"<ETag>1</ETag></Contents>"
                for key, data in found.items()
            )
            self.answer(
                200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _http_time() -> str:
    return "Thu, 01 Jan 2026 00:00:00 GMT"
