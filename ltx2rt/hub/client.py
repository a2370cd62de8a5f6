"""Talks to the hub: what a repository holds, and its files, which continue where an earlier transfer stopped.

Sessions, tokens, proxies and addresses are those of huggingface_hub. The bytes are fetched here, and not by its
``hf_hub_download``: that one begins a broken file again from its first byte.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ltx2rt.errors import BrokenDownload, DownloadError, OutOfSpace
from ltx2rt.hub.cache import HubCache, add_file, hasher
from ltx2rt.hub.reference import HubReference

log = logging.getLogger(__name__)

_ATTEMPTS = 5  # without a byte in between
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class HubFile:
    """A file of a repository as the hub lists it: bytes, and the checksum that names its content."""

    path: str
    bytes: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit.

    Attributes:
        reference: the repository and the revision that was asked for.
        commit: what that revision is.
        files: path -> file.
    """

    reference: HubReference
    commit: str
    files: Mapping[str, HubFile]


class Hub:
    """The hub, or what `HF_ENDPOINT` names in its place.

    Args:
        cache: where files go.
        endpoint: None: `HF_ENDPOINT`, else the hub.
        wait: sleeps between attempts.
    """

    def __init__(
        self, cache: HubCache, endpoint: str | None = None, wait: Callable[[float], None] = time.sleep
    ) -> None:
        from huggingface_hub import HfApi

        self.cache = cache
        self._wait = wait
        self._api = HfApi(endpoint=endpoint, library_name="ltx2rt")

    @property
    def endpoint(self) -> str:
        return str(self._api.endpoint)

    def list(self, reference: HubReference) -> Listing:
        """Ask what a repository holds.

        Raises:
            DownloadError: there is no such repository or revision, or it is not for this account.
            BrokenDownload: the hub does not answer.
        """
        from huggingface_hub.errors import HFValidationError

        try:
            with _explained(reference, self.endpoint):
                info = self._api.model_info(
                    reference.repository, revision=reference.revision, files_metadata=True, timeout=_TIMEOUT_S
                )
        except HFValidationError as error:
            raise DownloadError(f"{reference.repository} cannot be the name of a repository: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # What a web page makes of its parser.
            raise DownloadError(
                f"{self.endpoint} does not answer as the hub does; check HF_ENDPOINT, and whether the network "
                "wants a login first."
            ) from error
        files = {}
        for entry in info.siblings or ():
            etag = entry.blob_id if entry.lfs is None else entry.lfs.sha256
            size = entry.size if entry.lfs is None else entry.lfs.size
            if etag is not None and size is not None:
                files[entry.rfilename] = HubFile(entry.rfilename, size, etag)
        if not info.sha or not files:
            raise DownloadError(f"{self.endpoint} lists no files of {reference.repository}; is it a copy of the hub?")
        return Listing(reference, info.sha, files)

    def require_access(self, listing: Listing, file: HubFile) -> None:
        """Ask whether the hub would give a file; nothing of it is fetched. Its listing is shown to everybody.

        Raises:
            DownloadError: it would not, with what to do.
            BrokenDownload: the hub does not answer.
        """
        from huggingface_hub import get_hf_file_metadata

        reference = HubReference(listing.reference.repository, file.path, listing.reference.revision)
        with _explained(reference, self.endpoint):
            get_hf_file_metadata(self._url(reference, listing.commit), endpoint=self.endpoint, timeout=_TIMEOUT_S)

    def fetch(self, listing: Listing, file: HubFile, advance: Callable[[int], None]) -> Path:
        """Fetch a file into the cache, beginning with what an earlier transfer left, and check its content.

        Args:
            advance: hears of the bytes that come; of fewer than none when they have to be fetched again.

        Returns:
            its name in the cache.

        Raises:
            DownloadError: refused, or the content is not what the hub states; then nothing of it is kept.
            BrokenDownload: the connection broke; what has come is kept.
            OutOfSpace: the disk is full; what has come is kept.
        """
        from huggingface_hub.utils import WeakFileLock

        repository = listing.reference.repository
        reference = HubReference(repository, file.path, listing.reference.revision)
        blob, partial = self.cache.blob(repository, file.etag), self.cache.partial(repository, file.etag)
        lock = self.cache.lock(repository, file.etag)
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                self._complete(reference, listing.commit, file, partial, advance)
                os.replace(partial, blob)
                return self.cache.place(reference, listing.commit, file.etag)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(
                    f"{partial} cannot be written: {error.strerror}; what has come is kept. Make room and repeat the "
                    "command, or set HF_HUB_CACHE to a folder on another disk."
                ) from error
            if error.filename is not None:
                raise DownloadError(
                    f"{error.filename}: {error.strerror}; set HF_HUB_CACHE to another folder."
                ) from error
            raise

    def _complete(
        self, reference: HubReference, commit: str, file: HubFile, partial: Path, advance: Callable[[int], None]
    ) -> None:
        """Bring a partial file to its full size, and check it."""
        here = partial.stat().st_size if partial.exists() else 0
        if here > file.bytes:
            partial.unlink()
            here = 0
        digest = hasher(file.etag, file.bytes)
        if here:
            add_file(digest, partial)
        failures = 0
        with partial.open("ab") as target:
            while here < file.bytes:
                before = here
                try:
                    with self._open(reference, commit, here) as (begin, chunks):
                        if begin != here:  # The server does not continue: all of it again.
                            advance(-here)
                            target.truncate(0)
                            digest, here = hasher(file.etag, file.bytes), 0
                        for chunk in chunks:
                            target.write(chunk)
                            digest.update(chunk)
                            here += len(chunk)
                            advance(len(chunk))
                            if here > file.bytes:
                                break  # and not until the disk is full
                except BrokenDownload:
                    failures = 1 if here > before else failures + 1
                    if failures >= _ATTEMPTS:
                        raise
                    pause = 2.0 ** (failures - 1)
                    log.warning("%s broke off after %d bytes; trying again in %.0f s", reference, here, pause)
                    self._wait(pause)
                else:
                    if here < file.bytes and here == before:
                        raise BrokenDownload(_broken(reference, f"only {here} of {file.bytes} bytes came"))
            target.flush()
            os.fsync(target.fileno())
        if here != file.bytes or digest.hexdigest() != file.etag:
            partial.unlink()
            raise DownloadError(
                f"{reference}: what came ({here} bytes, checksum {digest.hexdigest()}) is not what the hub states "
                f"({file.bytes} bytes, {file.etag}). It was removed; repeat the command."
            )

    def _url(self, reference: HubReference, commit: str) -> str:
        from huggingface_hub import hf_hub_url

        return str(hf_hub_url(reference.repository, reference.file, revision=commit, endpoint=self.endpoint))

    @contextmanager
    def _open(self, reference: HubReference, commit: str, begin: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from ``begin`` on, and where they really begin."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = self._url(reference, commit)
        headers = {**build_hf_headers(library_name="ltx2rt"), "Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        with (
            _explained(reference, self.endpoint),
            # The session leaves out the token where it is sent on to another host.
            get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            # As they come, and not gathered to blocks, of which a broken connection would lose the last one.
            continued = response.status_code == HTTPStatus.PARTIAL_CONTENT
            yield begin if continued else 0, response.iter_bytes()


@contextmanager
def _explained(reference: HubReference, endpoint: str) -> Iterator[None]:
    """Errors of huggingface_hub become ours, with what to do."""
    from huggingface_hub import errors, get_token

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise BrokenDownload(
            f"{reference}: HF_HUB_OFFLINE is set, so that nothing is asked from the network; unset it, or give "
            "--offline to see what is missing."
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(error, reference, endpoint, get_token() is not None) from error
    except errors.HTTPError as error:  # Base of everything that a connection can do, in httpx and httpx2.
        raise BrokenDownload(_broken(reference, f"{endpoint}: {error or type(error).__name__}")) from error


def _broken(reference: HubReference, reason: str) -> str:
    return (
        f"{reference}: the transfer broke off ({reason}). What has come is kept: repeat the command to go on. Check "
        "the connection, and HTTPS_PROXY if there is a proxy; HF_ENDPOINT names a mirror of the hub."
    )


def _refused(error: Any, reference: HubReference, endpoint: str, with_token: bool) -> DownloadError:
    """What an answer other than the file means."""
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError) or status == HTTPStatus.FORBIDDEN:
        return DownloadError(_gated(reference, with_token))
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(f"{reference.repository} has no revision {reference.revision!r}; see {reference.page}.")
    if isinstance(error, errors.EntryNotFoundError):
        return DownloadError(f"{reference.repository} has no file {reference.file!r}; see {reference.page}/tree/main.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DownloadError(
            f"{endpoint} has no repository {reference.repository}, or it is private; check the name"
            + (
                ", and whether the account of your token may read it."
                if with_token
                else ", or log in: `hf auth login`."
            )
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return DownloadError(
            "the hub does not accept your token; make a new one at https://huggingface.co/settings/tokens and run "
            "`hf auth login`, or set HF_TOKEN."
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
    ):
        return BrokenDownload(_broken(reference, f"{endpoint} answers {status}"))
    return DownloadError(f"{reference}: {endpoint} answers {status}: {' '.join(str(error).split())}")


def _gated(reference: HubReference, with_token: bool) -> str:
    """How to get at files behind a licence."""
    if with_token:
        return (
            f"{reference.repository} is gated, and the account of your token has no access: open {reference.page} with "
            "that account and accept the licence; a fine-grained token also needs the permission to read public gated "
            "repositories. Then repeat the command."
        )
    return (
        f"{reference.repository} is gated, and there is no token: open {reference.page}, log in and accept the "
        "licence; then run `hf auth login` with a token from https://huggingface.co/settings/tokens (or set HF_TOKEN), "
        "and repeat the command."
    )
