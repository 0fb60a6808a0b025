"""Fetching published files: continued where it broke off, and checked before they are used.

A file grows beside its place, as `NAME.part`, and takes its name when it is whole and its
checksum is right. `NAME.part.json` says what it is a part of, so that a later try asks the server
for the rest only if the file there is still the same (RFC 9110, sections 13.1.5 and 14.2).
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, cast
from urllib.parse import urlsplit

from mvflow import __version__
from mvflow.core import DataError
from mvflow.core.files import (
    lock,
    open_append,
    open_regular,
    read_json,
    reading,
    write_json,
    writing,
)

__all__ = ["Download", "Watcher", "fetch", "readable_size"]

TRIES = 5
"""Tries in a row that bring nothing new before one gives up."""
TIMEOUT = 30.0
"""Seconds without an answer after which a try has failed."""

DEADLINE = 24 * 3600.0
"""Seconds after which one gives up, however much has come."""
WINDOW = 60.0
"""Seconds over which the speed of a transfer is looked at..."""
SLOWEST = 1000
"""...and bytes per second that must have come in them."""

_BLOCK = 1 << 18
_ORIGIN = {"url": str, "validator": str, "total": (int, type(None))}
_PASSING = {408, 425, 429}  # of all answers 4xx, those to which the next may be another
_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Download:
    """Where a published file can be fetched.

    Args:
        url: its address, http or https.
        name: the name under which it is kept; by default the last part of the address.
        size: its bytes, 0 where not known.
        checksum: `md5:...` or `sha256:...` in hexadecimal; empty where none is published.
        at_most: bytes that it has at most, where `size` is not known.

    Raises:
        ValueError: if the address or the checksum is of another form.

    Examples:
        >>> Download("https://example.org/digits/train.gz").name
        'train.gz'
    """

    url: str
    name: str = ""
    size: int = 0
    checksum: str = ""
    at_most: int = 1 << 33

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in _SCHEMES:
            msg = f"url is {self.url!r}: expected http or https"
            raise ValueError(msg)
        if not re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.checksum):
            msg = f"checksum is {self.checksum!r}: expected md5: or sha256: and hexadecimals"
            raise ValueError(msg)
        if not self.name:
            object.__setattr__(self, "name", urlsplit(self.url).path.rpartition("/")[2])

    @property
    def host(self) -> str:
        """The server."""
        return urlsplit(self.url).netloc

    def checksum_of(self, path: Path) -> str:
        """That of a file, in the form of `checksum`; empty where none is published."""
        if not self.checksum:
            return ""
        return _digest(path, self.checksum.partition(":")[0])

    @property
    def limit(self) -> int:
        """Bytes that are taken at most."""
        return self.size or self.at_most


class Watcher(Protocol):
    """Hears how downloads go; what it hears is for a human."""

    def on_start(self, download: Download, path: Path) -> None:
        """A file is about to be fetched; it will lie at `path`."""
        ...

    def on_bytes(self, done: int, total: int | None) -> None:
        """So much of it is here; how much there is may not be known."""
        ...

    def on_end(self, path: Path) -> None:
        """It is whole and lies at `path`."""
        ...

    def on_note(self, sentence: str) -> None:
        """Something that is no failure, but worth to be said."""
        ...


class _BrokenOff(Exception):
    """Trouble that may pass; its message says which."""


def fetch(
    download: Download,
    path: Path,
    watcher: Watcher,
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Fetch a file; what an earlier try has left is continued.

    Bytes are kept as they are sent: nothing is unpacked, whatever the server says of encodings.

    Args:
        download: what to fetch.
        path: where it shall lie; nothing lies there yet.
        watcher: hears how it goes.
        pause: waits so many seconds before the next try.
        clock: seconds since some moment.

    Raises:
        DataError: if the server does not have it, the connection breaks again and again or is too
            slow, it is of another size or checksum than published (then what came is removed), or
            it cannot be written.
    """
    watcher.on_start(download, path)
    with _Part(download, path) as part:
        most, failures, begin = part.kept, 0, clock()
        while not part.is_whole:
            try:
                _continue(part, watcher, clock, begin + DEADLINE)
            except _BrokenOff as trouble:
                failures = 0 if part.kept > most else failures + 1
                most = max(most, part.kept)
                if failures == TRIES:
                    raise _given_up(part, trouble) from trouble
                seconds = 2.0**failures
                watcher.on_note(f"{path.name}: {trouble}; next try in {seconds:.0f} s")
                pause(seconds)
        part.finish()
    if not download.checksum:
        digest = _digest(path, "sha256")
        watcher.on_note(f"{path.name}: no checksum of it is published; what came has {digest}")
    watcher.on_end(path)


class _Part:
    """The file as far as it has come, and what it is a part of; locked against other processes."""

    def __init__(self, download: Download, path: Path) -> None:
        self.download = download
        self.path = path
        self.place = path.with_name(f"{path.name}.part")
        self.is_whole = False
        self._about = path.with_name(f"{path.name}.part.json")

    def __enter__(self) -> _Part:
        self.origin: dict[str, Any] = {}
        with writing(self.place):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open_append(self.place)
        try:
            lock(self._file)
        except BlockingIOError as error:
            self._file.close()
            msg = f"another process is fetching {self.path}: wait for it, or stop it first"
            raise DataError(msg) from error
        self._file.seek(0, 2)
        self.origin = self._read_origin()
        if not self.origin:
            self.discard()
        self.is_whole = bool(self.origin) and self.kept == self.origin["total"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.kept:
            self._remove()
        self._file.close()

    @property
    def kept(self) -> int:
        """Bytes that are here."""
        return self._file.tell()

    def begin(self, start: int, validator: str, total: int | None) -> None:
        """Go on behind the first `start` bytes of what the server now has."""
        self.origin = {"url": self.download.url, "validator": validator, "total": total}
        with writing(self.place):
            self._file.truncate(start)
            self._file.seek(start)
        write_json(self._about, self.origin)

    def write(self, block: bytes) -> None:
        """Add to the end.

        Raises:
            DataError: if that is more than the file can have; then what came is removed.
        """
        if self.kept + len(block) > self.download.limit:
            self.discard()
            msg = (
                f"{self.path.name} at {self.download.url} goes on and on, expected at most "
                f"{self.download.limit:,} bytes: it is not what was published"
            )
            raise DataError(msg)
        rest = memoryview(block)
        with writing(self.place):
            while rest:
                rest = rest[self._file.write(rest) :]

    def discard(self) -> None:
        """Forget what is here."""
        self.origin = {}
        with writing(self.place):
            self._file.truncate(0)
            self._file.seek(0)

    def finish(self) -> None:
        """Give it its name, if it is what was published; else discard it."""
        for what, wanted, actual in (
            ("bytes", self.download.size, self.kept),
            ("the checksum", self.download.checksum, self.download.checksum_of(self.place)),
        ):
            if wanted and actual != wanted:
                self.discard()
                msg = (
                    f"{self.path.name} from {self.download.url} is not what was published: "
                    f"expected {what} {wanted}, found {actual}; it is removed, run it again"
                )
                raise DataError(msg)
        with writing(self.path):
            self.place.replace(self.path)
            self._about.unlink(missing_ok=True)

    def _read_origin(self) -> dict[str, Any]:
        """What the bytes are a part of; empty if that is not known, or another address."""
        try:
            about = read_json(self._about, _ORIGIN)
        except DataError:
            return {}
        right = about["url"] == self.download.url
        right &= about["total"] is None or self.kept <= about["total"]
        return about if right else {}

    def _remove(self) -> None:
        with suppress(OSError):
            self._about.unlink(missing_ok=True)
            self.place.unlink(missing_ok=True)


def _continue(part: _Part, watcher: Watcher, clock: Callable[[], float], deadline: float) -> None:
    """One try: ask for what is not here yet, and write it until it ends or breaks off.

    Raises:
        _BrokenOff: if the next try may do better.
        DataError: if not.
    """
    try:
        with _answer(part) as response:
            total = _begin(part, response)
            watcher.on_bytes(part.kept, total)
            since, before = clock(), part.kept
            while block := response.read1(_BLOCK):
                part.write(block)
                watcher.on_bytes(part.kept, total)
                if part.kept == total:
                    continue
                if (now := clock()) > deadline:
                    raise _given_up(part, f"it takes longer than {DEADLINE / 3600:.0f} hours")
                if now - since > WINDOW:
                    if part.kept - before < SLOWEST * (now - since):
                        msg = f"less than {readable_size(SLOWEST)} came per second"
                        raise _BrokenOff(msg)
                    since, before = now, part.kept
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(part, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_trouble(part, error) from error
    if total is not None and part.kept < total:
        msg = f"the connection broke after {part.kept:,} of {total:,} bytes"
        raise _BrokenOff(msg)
    part.is_whole = True


def _answer(part: _Part) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"mvflow/{__version__}", "Accept-Encoding": "identity"}
    if part.kept:
        headers["Range"] = f"bytes={part.kept}-"
        if part.origin["validator"]:
            headers["If-Range"] = part.origin["validator"]
    request = urllib.request.Request(part.download.url, headers=headers)
    return _opener().open(request, timeout=TIMEOUT)


def _begin(part: _Part, response: http.client.HTTPResponse) -> int | None:
    """Set where the part goes on; returns how many bytes the whole file has, where known."""
    if "text/html" in response.headers.get("Content-Type", ""):
        msg = f"{part.download.url} answers with a web page in place of {part.path.name}"
        raise DataError(msg)
    validator = _validator(response)
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        if not part.kept:
            msg = f"{part.download.url} answers with a part of {part.path.name}: all was asked for"
            raise DataError(msg)
        start, total = _range(response)
        before = part.origin.get("total")
        if start != part.kept or validator != part.origin["validator"] or total != before:
            part.discard()
            raise _BrokenOff("the file has changed on the server")
    else:
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdecimal() else None
    if total is not None and part.download.size not in (0, total):
        msg = (
            f"{part.path.name} at {part.download.url} has {total:,} bytes, "
            f"expected {part.download.size:,}: it is not what was published"
        )
        raise DataError(msg)
    if total is not None and total > part.download.limit:
        msg = (
            f"{part.path.name} at {part.download.url} has {total:,} bytes, expected at most "
            f"{part.download.limit:,}: it is not what was published"
        )
        raise DataError(msg)
    free = shutil.disk_usage(part.place.parent).free
    if total is not None and total - start > free:
        msg = (
            f"{part.path.name} needs {readable_size(total - start)}, and {readable_size(free)} "
            f"are free in {part.place.parent}: make room, or choose another folder"
        )
        raise DataError(msg)
    part.begin(start, validator, total)
    return total


def _range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of an answer with a part of a file, -1 if it does not say; bytes of the whole."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    if not match:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _validator(response: http.client.HTTPResponse) -> str:
    """What tells this version of the file from others; a weak ETag does not (`W/...`)."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _refused(part: _Part, error: urllib.error.HTTPError) -> Exception:
    """What to make of an answer that is not the file."""
    said = f"{error.code} {error.reason}".strip()
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.discard()
        return _BrokenOff(f"the file has changed on the server ({said})")
    if error.code >= 500 or error.code in _PASSING:
        return _BrokenOff(f"the server answers {said}")
    return DataError(
        f"cannot fetch {part.path.name}: {part.download.url} answers {said}; "
        f"look for it elsewhere and put it at {part.path}"
    )


def _network_trouble(part: _Part, error: Exception) -> Exception:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DataError(
            f"cannot fetch {part.path.name}: {part.download.host} has a certificate that is "
            f"not trusted ({reason.verify_message})"
        )
    if isinstance(reason, TimeoutError):
        return _BrokenOff(f"no answer for {TIMEOUT:.0f} s")
    if isinstance(reason, http.client.IncompleteRead):
        return _BrokenOff(f"the connection broke after {part.kept:,} bytes")
    said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return _BrokenOff(f"{part.download.host}: {said}")


def _given_up(part: _Part, trouble: _BrokenOff | str) -> DataError:
    kept = f"{readable_size(part.kept)} are kept in {part.place}: " if part.kept else ""
    tried = "" if isinstance(trouble, str) else f"tried {TRIES} times; "
    return DataError(
        f"cannot fetch {part.path.name} from {part.download.url}: {trouble}; "
        f"{tried}{kept}run it again {'to go on' if kept else 'later'}"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to the same scheme, or from http to https."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in {"https", req.type}:
            sentence = f"{req.full_url} leads to {newurl}: only https is followed"
            raise DataError(sentence)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else; the usual one would open files and FTP, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _digest(path: Path, kind: str) -> str:
    with open_regular(path) as file, reading(path):
        return f"{kind}:{hashlib.file_digest(cast(Any, file), kind).hexdigest()}"


def readable_size(size: int) -> str:
    """Bytes for a human.

    Examples:
        >>> readable_size(9_912_422), readable_size(28_881)
        ('9.9 MB', '29 kB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1000:.0f} kB" if size >= 1000 else f"{size} bytes"
