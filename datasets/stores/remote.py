"""Reads files by address, over the network.

fsspec opens it: `http://` and `https://` with aiohttp, `s3://`, `gs://` and others with the package
that each needs. What is added here is what a training run cannot do without: attempts after lost
connections, a look at the answer's head before its body is read (a server may send the whole file,
or another one than a minute ago), and `BlockCache`.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fsspec.core import url_to_fs
from fsspec.spec import AbstractBufferedFile

from datasets.stores.blocks import BlockCache
from datasets.stores.files import shown
from datasets.task import UserError

ATTEMPTS = 8
PAUSE = 0.25  # seconds before the third attempt, doubled each time; the second follows at once
LONGEST_PAUSE = 8.0
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 2**23  # bytes of one request, so that a lost connection costs no more
REDIRECTS = 5
REDIRECTED = (301, 302, 303, 307, 308)
RETRIED = (408, 425, 429, 500, 502, 503, 504)
UNPACKED = {"Accept-Encoding": "identity"}  # offsets are of the file as it is
VERSIONS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "last_modified", "mtime")
FINAL = (  # names of errors that no other attempt can change
    *("FileNotFoundError", "PermissionError", "IsADirectoryError", "NotImplementedError"),
    *("TooManyRedirects", "InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError"),
    *("InvalidUrlRedirectClientError", "NonHttpUrlRedirectClientError"),
    "ClientConnectorCertificateError",
)

T = TypeVar("T")


class RemoteFile:
    """As `LocalFile`, from an address. What fails is tried again, ATTEMPTS times in all.

    cache: keeps what was read on this machine, and the index. UserError names the address, without
    what follows `?` and without user and password.
    """

    def __init__(self, url: str, cache: BlockCache | None = None) -> None:
        self.path = shown(url)
        self.folder = cache.folder if cache else None
        self.name = hashlib.blake2b(url.encode(), digest_size=12).hexdigest()
        self._url, self._cache = url, cache
        self._fingerprint: dict[str, Any] | None = None
        self._link: _Link | None = None
        self._owner = 0  # the process that opened _link

    def fingerprint(self) -> dict[str, Any]:
        """Size in bytes, and what the server says that changes with the content. Asked for once."""
        if self._fingerprint is None:
            self._fingerprint = self._patiently(lambda link: link.fingerprint())
        return self._fingerprint

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        length = self.fingerprint()["size"]
        size = max(min(size, length - offset), 0)
        if self._cache is None:
            return self._fetch(size, offset)
        version = hashlib.blake2b(repr([self._url, self._fingerprint]).encode(), digest_size=12)
        return self._cache.read(version.hexdigest(), length, size, offset, self._fetch)

    def _fetch(self, size: int, offset: int) -> bytes:
        total, end = self.fingerprint()["size"], offset + size
        return b"".join(
            self._patiently(lambda link, b=b: link.fetch(min(CHUNK, end - b), b, total))
            for b in range(offset, end, CHUNK)
        )

    def _patiently(self, call: Callable[["_Link"], T]) -> T:
        for attempt in range(ATTEMPTS):
            if attempt > 1:
                time.sleep(min(PAUSE * 2 ** (attempt - 2), LONGEST_PAUSE))
            if self._link is None or self._owner != os.getpid():
                self._link, self._owner = _Link(self._url), os.getpid()
            try:
                return call(self._link)
            except _Lost as error:
                why, self._link = str(error), None
        raise UserError(f"{self.path}: cannot be read, {ATTEMPTS} attempts failed: {why}")

    def as_file(self, length: int) -> AbstractBufferedFile:
        """What h5py opens: a file of `length` bytes."""
        return _Whole(self, length)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_link": None}


class _Whole(AbstractBufferedFile):
    """A file with a position, over one without."""

    def __init__(self, file: RemoteFile, length: int) -> None:
        self._file = file
        super().__init__(None, file.path, block_size=2**18, size=length)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._file.read(end - start, start)


class _Lost(Exception):
    """An attempt failed in a way that another may not."""


class _Link:
    """One process's way to a file through fsspec; over HTTP, it looks at the head of each answer
    before the body, and asks where redirects led from then on."""

    def __init__(self, url: str) -> None:
        self._url, self._web = url, urlsplit(url).scheme in ("http", "https")
        self._system, self._path = file_system(url, self._look if self._web else None)
        self._first, self._total, self._facts, self._led = self._path, None, {}, False

    def fingerprint(self) -> dict[str, Any]:
        """What the server says of the file: its size, and what changes with its content."""
        if self._web:
            self.fetch(1, 0, None)
            size = self._facts["Content-Range"].rpartition("/")[2]
        else:
            self._facts = self._call(self._system.info, self._path)
            size = str(self._facts.get("size"))
        if not size.isdigit():
            raise self._error("the server does not tell how large the file is")
        version = next((self._facts[key] for key in VERSIONS if self._facts.get(key)), "")
        return {"size": int(size), "version": str(version)}

    def fetch(self, size: int, offset: int, total: int | None) -> bytes:
        """Bytes of a file that is `total` bytes long, or of an unknown length."""
        self._total = total
        options = {"headers": UNPACKED, "max_redirects": REDIRECTS} if self._web else {}
        data = self._call(
            self._system.cat_file, self._path, start=offset, end=offset + size, **options
        )
        if len(data) != size:
            raise _Lost(f"{len(data)} bytes came of {size}")
        return data

    def _call(self, function: Callable[..., T], *args: Any, **settings: Any) -> T:
        try:
            return function(*args, **settings)
        except (UserError, _Lost):
            raise
        except Exception as error:  # each file system has errors of its own
            if type(error).__name__ in FINAL:
                raise self._error(_line(error)) from None
            raise _Lost(_line(error)) from None

    async def _look(self, request: Any, handler: Any) -> Any:
        """Called by aiohttp around every request, also around one that a redirect leads to."""
        if self._url.startswith("https:") and request.url.scheme != "https":
            raise self._error(f"leads to {shown(str(request.url))}, expected https")
        answer = await handler(request)
        try:
            self._check(answer, request.headers["Range"].removeprefix("bytes="))
        except Exception:
            answer.close()  # the body may be the whole file
            raise
        if answer.status == 206:
            self._facts = answer.headers
            if self._led and "@" not in self._url:  # who asks with a password asks with it again
                self._path = str(request.url)
        self._led = answer.status in REDIRECTED
        return answer

    def _check(self, answer: Any, span: str) -> None:
        status, said = f"HTTP {answer.status} {answer.reason}", answer.headers.get("Content-Range")
        if answer.status in REDIRECTED:
            return
        expired = answer.status == 403 and self._path != self._first  # a link that was signed
        if answer.status in RETRIED or expired:
            raise _Lost(status)
        if answer.status == 200:
            raise self._error(f"the server gives no parts of files: {status}")
        if answer.status != 206:
            raise self._error(status)
        sent, _, total = (said or "").rpartition("/")
        if sent != f"bytes {span}" or (self._total and total not in (str(self._total), "*")):
            raise self._error(
                f"got {said or 'no range'}, expected bytes {span}/{self._total or ''}: it may have "
                "changed since it was opened"
            )

    def _error(self, what: str) -> UserError:
        return UserError(f"{shown(self._url)}: {what}")


def _web_options(url: str, look: Callable[..., Any]) -> dict[str, Any]:
    """For fsspec's HTTP: the environment's proxy, patience, a look at each answer."""
    from aiohttp import ClientTimeout  # a quarter of a second

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and proxy_bypass(parts.hostname or ""):
        proxy = None
    client = {  # not aiohttp's trust_env, which looks for a .netrc at every request
        "proxy": proxy and (proxy if "://" in proxy else f"http://{proxy}"),
        "timeout": ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT),
        "middlewares": (look,),
    }
    return {"client_kwargs": client, "skip_instance_cache": True}


def file_system(url: str, look: Callable[..., Any] | None = None) -> tuple[Any, str]:
    """fsspec's file system and the path in it; UserError if it needs a package that is absent.

    look: what aiohttp calls around every request.
    """
    try:
        return url_to_fs(url, **(_web_options(url, look) if look else {}))
    except (ImportError, ValueError) as error:
        raise UserError(f"{shown(url)}: cannot be opened: {_line(error)}") from None


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
        return [address for one in each for address in expand(one, suffixes)]
    scheme, path = urlsplit(url)[0], urlsplit(url).path
    if path.lower().endswith(suffixes):
        return [url]
    name = shown(url)
    if scheme in ("http", "https"):
        raise UserError(f"{name}: expected the address of a file of {', '.join(suffixes)}")
    system, folder = file_system(url)
    try:
        paths = sorted(path for path in system.ls(folder, detail=False))
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"{name}: cannot be listed: {_line(error)}") from None
    shards = [system.unstrip_protocol(path) for path in paths if path.lower().endswith(suffixes)]
    if not shards:
        raise UserError(f"{name}: holds no file of {', '.join(suffixes)}")
    return shards
