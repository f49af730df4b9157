"""The address of a file elsewhere goes in; bytes of it at any offset come out.

`http://` and `https://` are read with range requests over one connection a process; other addresses
(`s3://`, `gs://`, ...) through fsspec, which asks for the package that each needs.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urljoin, urlsplit

from datasets.stores.blocks import BlockCache
from datasets.task import UserError

ATTEMPTS = 8
PAUSE = 0.25  # seconds before the third attempt, doubled each time; the second follows at once
LONGEST_PAUSE = 8.0
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 2**23  # bytes of one request, so that a lost connection costs no more
REDIRECTS = 5
RETRIED = (408, 425, 429, 500, 502, 503, 504)

T = TypeVar("T")


class RemoteFile:
    """As `LocalFile`, from an address. What fails is tried again, ATTEMPTS times in all.

    cache: keeps what was read on this machine, and the index. UserError names the address.
    """

    def __init__(self, url: str, cache: BlockCache | None = None) -> None:
        self.path = url
        self.folder = cache.folder if cache else None
        self.name = hashlib.blake2b(url.encode(), digest_size=12).hexdigest()
        self._cache = cache
        self._fingerprint: dict[str, Any] | None = None
        self._link: _Http | _Fsspec | None = None
        self._owner = 0  # the process that opened _link

    def fingerprint(self) -> dict[str, Any]:
        """Size in bytes, and what the server says that changes with the content. Asked for once."""
        if self._fingerprint is None:
            self._fingerprint = self._patiently(lambda link: link.fingerprint())
        return self._fingerprint

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        size = max(min(size, self.fingerprint()["size"] - offset), 0)
        if self._cache is None:
            return self._fetch(size, offset)
        version = hashlib.blake2b(repr([self.path, self.fingerprint()]).encode(), digest_size=12)
        end = self.fingerprint()["size"]
        return self._cache.read(version.hexdigest(), end, size, offset, self._fetch)

    def _fetch(self, size: int, offset: int) -> bytes:
        parts = []
        for begin in range(offset, offset + size, CHUNK):
            length, total = min(CHUNK, offset + size - begin), self.fingerprint()["size"]
            parts.append(
                self._patiently(lambda link, b=begin, n=length, t=total: link.fetch(n, b, t))
            )
        return b"".join(parts)

    def _patiently(self, call: Callable[[Any], T]) -> T:
        for attempt in range(ATTEMPTS):
            if attempt > 1:
                time.sleep(min(PAUSE * 2 ** (attempt - 2), LONGEST_PAUSE))
            if self._link is None or self._owner != os.getpid():
                web = urlsplit(self.path).scheme in ("http", "https")
                self._link = _Http(self.path) if web else _Fsspec(self.path)
                self._owner = os.getpid()
            try:
                return call(self._link)
            except _Lost as error:
                why, self._link = str(error), None
        raise UserError(f"{self.path}: cannot be read, {ATTEMPTS} attempts failed: {why}")

    def whole(self, length: int) -> BinaryIO:
        """What h5py opens: a file of `length` bytes."""
        return io.BufferedReader(_Raw(self, length), 2**18)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_link": None}


class _Lost(Exception):
    """An attempt failed in a way that another may not."""


class _Raw(io.RawIOBase):
    """A file with a position, over one without."""

    def __init__(self, file: RemoteFile, length: int) -> None:
        self._file, self._length, self._at = file, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        )
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Http:
    """One kept connection to where an address leads."""

    def __init__(self, url: str) -> None:
        self._url = self._place = url  # _place: where redirects led
        self._connection: http.client.HTTPConnection | None = None
        self._connected: tuple[str, str] | None = None

    def fingerprint(self) -> dict[str, Any]:
        headers, _ = self._get(0, 0, None)
        total = headers.get("Content-Range", "").rpartition("/")[2]
        if not total.isdigit():
            raise UserError(f"{self._url}: the server does not tell how large the file is")
        version = headers.get("ETag") or headers.get("Last-Modified") or ""
        return {"size": int(total), "version": version}

    def fetch(self, size: int, offset: int, total: int) -> bytes:
        return self._get(offset, offset + size - 1, total)[1]

    def _get(self, first: int, last: int, total: int | None) -> tuple[Any, bytes]:
        """Headers and body of one range; _Lost or UserError."""
        try:
            response = self._follow(
                {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
            )
            if response.status in RETRIED or (response.status == 403 and self._place != self._url):
                raise _Lost(f"HTTP {response.status} {response.reason}")  # 403: a link that expired
            if response.status != 206:
                self._connection.close()  # the body may be the whole file
                ranges = "the server gives no parts of files: "
                what = f"{ranges if response.status == 200 else ''}HTTP {response.status}"
                raise UserError(f"{self._url}: {what} {response.reason}")
            said = response.headers.get("Content-Range", "")
            if not said.startswith(f"bytes {first}-{last}/") or (
                total is not None and said.rpartition("/")[2] not in (str(total), "*")
            ):
                self._connection.close()
                raise UserError(
                    f"{self._url}: got {said or 'no range'}, expected bytes {first}-{last}/"
                    f"{total or ''}: it may have changed since it was opened"
                )
            body = response.read(last - first + 1)
            if len(body) < last - first + 1 or response.read(1):
                raise _Lost(f"{len(body)} bytes came of {last - first + 1}")
            return response.headers, body
        except ssl.SSLCertVerificationError as error:
            raise UserError(f"{self._url}: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Lost(str(error) or type(error).__name__) from None

    def _follow(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        for _ in range(REDIRECTS):
            response = self._ask(self._place, headers)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            response.read()
            place = urljoin(self._place, response.headers.get("Location", ""))
            schemes = ("https",) if self._url.startswith("https:") else ("http", "https")
            if urlsplit(place).scheme not in schemes:
                raise UserError(f"{self._url}: leads to {place!r}, expected {' or '.join(schemes)}")
            self._place = place
        raise UserError(f"{self._url}: more than {REDIRECTS} redirects")

    def _ask(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        if not parts.hostname:
            raise UserError(f"{self._url}: expected the name of a host")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and urllib.request.proxy_bypass(parts.hostname):
            proxy = None
        if self._connected != (parts.scheme, parts.netloc):
            if self._connection is not None:
                self._connection.close()
            self._connection = _connect(parts, proxy)
            self._connected = (parts.scheme, parts.netloc)
        if proxy and parts.scheme == "http":
            target, headers = f"http://{parts.netloc}{target}", {**headers, "Host": parts.netloc}
        self._connection.request("GET", target, headers=headers)
        return self._connection.getresponse()


def _connect(parts: Any, proxy: str | None) -> http.client.HTTPConnection:
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    if not proxy:
        return kind(parts.hostname, parts.port, timeout=TIMEOUT)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = kind(through.hostname, through.port or 80, timeout=TIMEOUT)
    if secure:
        connection.set_tunnel(parts.hostname, parts.port or 443)
    return connection


class _Fsspec:
    """A file of any file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._system, self._path = file_system(url)

    def fingerprint(self) -> dict[str, Any]:
        info = self._call(self._system.info, self._path)
        keys = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
        version = next((info[key] for key in keys if info.get(key)), "")
        if not isinstance(info.get("size"), int):
            raise UserError(f"{self._url}: the server does not tell how large the file is")
        return {"size": info["size"], "version": str(version)}

    def fetch(self, size: int, offset: int, total: int) -> bytes:
        data = self._call(self._system.cat_file, self._path, start=offset, end=offset + size)
        if len(data) != size:
            raise _Lost(f"{len(data)} bytes came of {size}")
        return data

    def _call(self, function: Callable[..., T], *args: Any, **settings: Any) -> T:
        try:
            return function(*args, **settings)
        except (
            FileNotFoundError,
            PermissionError,
            IsADirectoryError,
            NotImplementedError,
        ) as error:
            raise UserError(f"{self._url}: {_line(error)}") from None
        except Exception as error:  # each file system has errors of its own
            raise _Lost(_line(error)) from None


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it; UserError if it needs a package that is absent."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: cannot be opened: {_line(error)}") from None


def _line(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def expand(url: str, suffixes: tuple[str, ...]) -> list[str]:
    """The addresses that one stands for: `{000..019}` counts, a folder (not of the web, which does
    not list its files) gives the shards in it, sorted."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", url)
    if braces:
        first, last = braces.groups()
        numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        each = [url[: braces.start()] + number + url[braces.end() :] for number in numbers]
        return [place for one in each for place in expand(one, suffixes)]
    scheme, path = urlsplit(url)[0], urlsplit(url).path
    if path.lower().endswith(suffixes):
        return [url]
    if scheme in ("http", "https"):
        raise UserError(f"{url}: expected the address of a file of {', '.join(suffixes)}")
    system, folder = file_system(url)
    try:
        found = sorted(path for path in system.ls(folder, detail=False))
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"{url}: cannot be listed: {_line(error)}") from None
    shards = [system.unstrip_protocol(path) for path in found if path.lower().endswith(suffixes)]
    if not shards:
        raise UserError(f"{url}: holds no file of {', '.join(suffixes)}")
    return shards
