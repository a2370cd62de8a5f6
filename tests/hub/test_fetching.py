"""Fetching from a hub on this machine: whole, broken, damaged, refused; what is here is not fetched again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache
from local_hub import NAME, LocalHub, Repository, content, etag

from ltx2rt.errors import BrokenDownload, DownloadError, OutOfSpace, UsageError
from ltx2rt.hub import download
from ltx2rt.hub.cache import HubCache
from ltx2rt.hub.client import Hub
from ltx2rt.hub.download import (
    Item,
    State,
    fetch,
    require_space,
    survey,
    survey_offline,
    verify,
    wanted_parts,
    wanted_reference,
)
from ltx2rt.hub.known_set import Part
from ltx2rt.hub.known_set import Repository as KnownRepository
from ltx2rt.hub.reference import HubReference

MODEL = HubReference(NAME, "model.safetensors")


class Counted:
    """A transfer's progress."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.bytes = 0

    def begin(self, name: str) -> None:
        self.names.append(name)

    def advance(self, count: int) -> None:
        self.bytes += count


def items_of(hub: Hub, reference: HubReference = MODEL) -> list[Item]:
    return survey(hub, wanted_reference(reference))


def fetched(hub: Hub, reference: HubReference = MODEL) -> list[Path]:
    return fetch(hub, items_of(hub, reference), Counted())


def test_a_repository_comes_whole_and_other_programs_find_it(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    progress = Counted()
    files = server.repositories[NAME].files
    paths = fetch(hub, items_of(hub, HubReference(NAME)), progress)
    folder = cache.find(HubReference(NAME))
    assert folder is not None
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths} == files
    assert progress.bytes == server.content_bytes == sum(map(len, files.values()))
    assert progress.names == [f"{NAME}:{name}" for name in sorted(files)]
    for name in files:
        assert try_to_load_from_cache(NAME, name, cache.folder) == str(folder / name)
        assert hf_hub_download(NAME, name, cache_dir=cache.folder, local_files_only=True) == str(folder / name)
    info = scan_cache_dir(cache.folder)
    assert not info.warnings
    assert [(repo.repo_id, repo.nb_files) for repo in info.repos] == [(NAME, 3)]


def test_what_is_here_is_not_fetched_again(server: LocalHub, hub: Hub) -> None:
    paths = fetched(hub, HubReference(NAME))
    before = server.content_bytes
    items = items_of(hub, HubReference(NAME))
    assert {item.state for item in items} == {State.HERE}
    assert sum(item.missing_bytes for item in items) == 0
    assert fetch(hub, items, Counted()) == paths
    assert server.content_bytes == before


def test_files_that_huggingface_hub_has_fetched_are_here(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    theirs = hf_hub_download(NAME, MODEL.file, cache_dir=cache.folder, endpoint=server.endpoint)
    before = server.content_bytes
    assert [str(path) for path in fetched(hub)] == [theirs]
    assert server.content_bytes == before


@pytest.mark.parametrize("cuts", [[1], [1_000_000], [500_000, 0, 0, 200_000, 1]])
def test_a_transfer_that_breaks_goes_on_where_it_stopped(
    cuts: list[int], server: LocalHub, hub: Hub, waits: list[float]
) -> None:
    server.break_after = list(cuts)
    progress = Counted()
    (path,) = fetch(hub, items_of(hub), progress)
    data = server.repositories[NAME].files[MODEL.file]
    assert path.read_bytes() == data
    assert server.content_bytes == len(data)  # not a byte twice
    assert progress.bytes == len(data)
    assert len(waits) == len(cuts)
    ranges = [request.range for request in server.requests if request.path.startswith("/content")]
    assert ranges[:2] == ["", f"bytes={cuts[0]}-"]


def test_the_next_command_goes_on_where_the_last_one_stopped(
    server: LocalHub, hub: Hub, cache: HubCache, waits: list[float]
) -> None:
    data = server.repositories[NAME].files[MODEL.file]
    server.break_after = [1_200_000, *[0] * 10]
    with pytest.raises(
        BrokenDownload, match=r"org/model:model.safetensors: the transfer broke off .*repeat the command"
    ):
        fetched(hub)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert cache.find(MODEL) is None
    partial = cache.partial(NAME, etag(MODEL.file, data))
    assert partial.stat().st_size == 1_200_000
    server.break_after = []
    (item,) = items_of(hub)
    assert (item.state, item.done, item.missing_bytes) == (State.PARTLY, 1_200_000, len(data) - 1_200_000)
    before = server.content_bytes
    (path,) = fetch(hub, [item], Counted())
    assert path.read_bytes() == data
    assert server.content_bytes - before == len(data) - 1_200_000
    assert not partial.exists()


def test_a_complete_partial_file_is_only_checked(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    data = server.repositories[NAME].files[MODEL.file]
    partial = cache.partial(NAME, etag(MODEL.file, data))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data)
    (path,) = fetched(hub)
    assert path.read_bytes() == data
    assert server.content_bytes == 0


@pytest.mark.parametrize("size", [4_000_000, 3_000_000], ids=["longer", "other bytes"])
def test_a_partial_file_that_cannot_be_right(size: int, server: LocalHub, hub: Hub, cache: HubCache) -> None:
    data = server.repositories[NAME].files[MODEL.file]
    partial = cache.partial(NAME, etag(MODEL.file, data))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content(size, 7))
    if size == len(data):
        with pytest.raises(DownloadError, match="is not what the hub states"):
            fetched(hub)
    assert [path.read_bytes() for path in fetched(hub)] == [data]


def test_a_server_that_does_not_continue_sends_all_of_it(server: LocalHub, hub: Hub) -> None:
    server.break_after, server.ignores_ranges = [1_000_000], True
    progress = Counted()
    (path,) = fetch(hub, items_of(hub), progress)
    data = server.repositories[NAME].files[MODEL.file]
    assert path.read_bytes() == data
    assert server.content_bytes == len(data) + 1_000_000
    assert progress.bytes == len(data)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_found_and_nothing_stays(name: str, server: LocalHub, hub: Hub, cache: HubCache) -> None:
    server.damages = {name}
    with pytest.raises(
        DownloadError, match=r"what came \(\d+ bytes, checksum \w+\) is not what the hub states"
    ) as caught:
        fetched(hub, HubReference(NAME, name))
    assert not isinstance(caught.value, BrokenDownload)
    assert cache.find(HubReference(NAME, name)) is None
    assert [path for path in cache.folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    server.damages = set()
    assert [path.read_bytes() for path in fetched(hub, HubReference(NAME, name))] == [
        server.repositories[NAME].files[name]
    ]


def test_the_token_stays_with_the_hub(
    server: LocalHub, hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: HubCache
) -> None:
    """Contents lie with another host, whose address is signed."""
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    server.known_tokens = {"hf_mine"}
    server.repositories[NAME].readers = {"hf_mine"}
    fetched(hub)
    assert {request.token for request in server.requests if request.path.startswith("/content")} == {""}
    assert {request.token for request in server.requests if not request.path.startswith("/content")} == {"hf_mine"}


def test_a_gated_repository_without_a_token(server: LocalHub, hub: Hub) -> None:
    server.repositories[NAME].readers = {"hf_other"}
    (item,) = items_of(hub)  # sizes are told to everybody
    assert item.bytes == 3_000_000
    with pytest.raises(DownloadError) as caught:
        fetch(hub, [item], Counted())
    text = str(caught.value)
    assert "org/model is gated, and there is no token: open https://huggingface.co/org/model" in text
    assert "`hf auth login`" in text
    assert server.content_bytes == 0


def test_a_gated_repository_whose_licence_was_not_accepted(
    server: LocalHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    server.known_tokens = {"hf_mine"}
    server.repositories[NAME].readers = set()
    with pytest.raises(DownloadError, match=r"the account of your token has no access: open .* accept the licence"):
        fetched(hub)
    server.repositories[NAME].readers = {"hf_mine"}
    assert len(fetched(hub)) == 1


def test_a_token_that_is_not_valid(server: LocalHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(DownloadError, match=r"does not accept your token; make a new one at .*hf auth login"):
        items_of(hub)


@pytest.mark.parametrize("token", ["", "hf_mine"])
def test_a_repository_that_is_not_there(
    token: str, server: LocalHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
        server.known_tokens = {token}
    with pytest.raises(DownloadError, match="has no repository org/none, or it is private"):
        items_of(hub, HubReference("org/none"))


def test_a_file_or_a_revision_that_is_not_there(server: LocalHub, hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"has no file 'modle.safetensors'; did you mean model.safetensors\?"):
        items_of(hub, HubReference(NAME, "modle.safetensors"))
    with pytest.raises(DownloadError, match=r"has no file like \*.gguf"):
        items_of(hub, HubReference(NAME, "*.gguf"))
    with pytest.raises(DownloadError, match="has no revision 'v9'"):
        items_of(hub, HubReference(NAME, revision="v9"))
    assert server.content_bytes == 0


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_hub_that_is_down_can_be_asked_again(status: int, server: LocalHub, hub: Hub) -> None:
    server.status = status
    with pytest.raises(BrokenDownload, match=f"answers {status}"):
        items_of(hub)


def test_a_hub_that_goes_down_during_a_transfer(server: LocalHub, hub: Hub, waits: list[float]) -> None:
    items = items_of(hub)
    server.status = 502
    with pytest.raises(BrokenDownload, match="answers 502"):
        fetch(hub, items, Counted())
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_hub_that_cannot_be_reached(cache: HubCache, server: LocalHub) -> None:
    with pytest.raises(BrokenDownload, match=r"127.0.0.1:1: .*HTTPS_PROXY"):
        items_of(Hub(cache, "http://127.0.0.1:1"))


@pytest.mark.parametrize(
    "page", [b"<html>Welcome to our network</html>", b"[1, 2]", b'{"siblings": [{"size": 3}]}', b"{}"]
)
def test_an_answer_that_is_not_the_hubs(page: bytes, server: LocalHub, hub: Hub) -> None:
    server.page = page
    with pytest.raises(DownloadError, match=r"does not answer as the hub does|lists no files of org/model"):
        items_of(hub)


def test_a_web_page_in_place_of_a_file(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    items = items_of(hub)
    server.page = b"<html>Welcome to our network</html>"
    with pytest.raises(DownloadError):
        fetch(hub, items, Counted())
    assert cache.find(MODEL) is None


def test_a_file_that_does_not_end_is_left(server: LocalHub, hub: Hub) -> None:
    items = items_of(hub)
    server.tail = bytes(50_000_000)
    progress = Counted()
    with pytest.raises(DownloadError, match="is not what the hub states"):
        fetch(hub, items, progress)
    assert progress.bytes < 4_000_000


def test_a_name_that_no_repository_can_have(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"a/b\.\.c cannot be the name of a repository"):
        items_of(hub, HubReference("a/b..c"))


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    server: LocalHub, hub: Hub, cache: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = items_of(hub)
    monkeypatch.setattr(download, "free_bytes", lambda folder: 2_999_999 + 10**8)
    with pytest.raises(OutOfSpace, match=r"3 MB are to be fetched, but only 103 MB are free .*Nothing was fetched"):
        require_space(cache, items)
    monkeypatch.setattr(download, "free_bytes", lambda folder: 3_000_000 + 10**8)
    require_space(cache, items)
    fetch(hub, items, Counted())
    monkeypatch.setattr(download, "free_bytes", lambda folder: 0)
    require_space(cache, items_of(hub))  # nothing is to be fetched
    assert server.content_bytes == 3_000_000


def test_free_space_is_that_of_the_cache_to_be(tmp_path: Path) -> None:
    assert download.free_bytes(tmp_path / "a" / "b") > 0


class _FullDisk:
    """An open file on a disk that becomes full."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if self.room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return int(self.file.write(data))


def test_a_disk_that_becomes_full_keeps_what_has_come(
    server: LocalHub, hub: Hub, cache: HubCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = Path.open

    def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = real(path, mode, *rest, **more)
        return _FullDisk(file, 2_000_000) if mode == "ab" else file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(OutOfSpace, match=r"what has come is kept\. Make room and repeat the command"):
            fetched(hub)
    (item,) = items_of(hub)
    assert item.state is State.PARTLY
    assert 1_900_000 < item.done <= 2_000_000
    before = server.content_bytes
    fetch(hub, [item], Counted())
    assert server.content_bytes - before == 3_000_000 - item.done


def test_a_cache_that_cannot_be_written(server: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    hub = Hub(HubCache(tmp_path / "file" / "hub"), server.endpoint)
    with pytest.raises(DownloadError, match="set HF_HUB_CACHE to another folder"):
        fetched(hub)


def test_a_disk_without_links_holds_the_file_itself(
    server: LocalHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    (path,) = fetched(hub)
    assert not path.is_symlink()
    before = server.content_bytes
    assert fetched(hub) == [path]
    assert server.content_bytes == before


def test_a_new_commit_costs_what_has_changed(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    old = fetched(hub, HubReference(NAME))
    commit = server.repositories[NAME].commit
    changed = content(80_000, 9)
    server.repositories[NAME] = Repository(server.repositories[NAME].files | {"sub/lora.safetensors": changed})
    before = server.content_bytes
    new = fetched(hub, HubReference(NAME))
    assert server.content_bytes - before == len(changed)
    assert cache.find(HubReference(NAME, "sub/lora.safetensors")) == new[-1]
    assert new[-1].read_bytes() == changed
    assert cache.find(HubReference(NAME, "sub/lora.safetensors", commit)) == old[-1]


def test_a_revision_is_a_branch_or_a_commit(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    commit = server.repositories[NAME].commit
    (path,) = fetched(hub, HubReference(NAME, MODEL.file, commit))
    assert cache.find(HubReference(NAME, MODEL.file, commit)) == path
    assert cache.find(MODEL) is None  # nobody has said that this is main
    before = server.content_bytes
    assert fetched(hub) == [path]
    assert cache.find(MODEL) == path
    assert server.content_bytes == before


def test_patterns_stay_in_their_folder(server: LocalHub, hub: Hub) -> None:
    assert [item.reference.file for item in items_of(hub, HubReference(NAME, "*.safetensors"))] == [MODEL.file]
    assert [item.reference.file for item in items_of(hub, HubReference(NAME, "sub/*"))] == ["sub/lora.safetensors"]


@pytest.mark.parametrize("name", ["../out.safetensors", "/tmp/out.safetensors", "sub/../../../../out.safetensors"])
def test_names_that_lead_out_of_the_cache_are_refused(
    name: str, server: LocalHub, hub: Hub, cache: HubCache, tmp_path: Path
) -> None:
    server.repositories[NAME] = Repository({"good.safetensors": content(10, 1)})
    listing = hub.list(HubReference(NAME))
    with pytest.raises(DownloadError, match="which is no name"):
        cache.place(HubReference(NAME, name), listing.commit, "0" * 64)
    assert list(tmp_path.rglob("out.safetensors")) == []


def test_offline_nothing_is_asked_and_what_is_missing_is_named(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    known = KnownRepository(NAME, "a licence")
    parts = [
        Part("checkpoint", known, (MODEL.file,), 3_000_000),
        Part("loras", known, ("sub/lora.safetensors",), 70_000),
        Part("text_encoder", KnownRepository("org/other", "a licence"), ("*.safetensors", "tokenizer.model"), 5),
    ]
    fetched(hub)
    asked = len(server.requests)
    items = survey_offline(cache, wanted_parts(parts))
    assert [(str(item.reference), item.state, item.bytes) for item in items] == [
        ("org/model:model.safetensors", State.HERE, 3_000_000),
        ("org/model:sub/lora.safetensors", State.MISSING, 70_000),
        ("org/other:tokenizer.model", State.MISSING, None),
    ]
    assert len(server.requests) == asked


def test_offline_a_shard_that_an_index_names_is_missed(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": content(100, i) for i in (1, 2)}
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    server.repositories[NAME] = Repository({**shards, "model.safetensors.index.json": index})
    want = wanted_reference(HubReference(NAME, "*.safetensors"))
    items = survey(hub, want) + survey(hub, wanted_reference(HubReference(NAME, "*.json")))
    fetch(hub, [items[0], items[2]], Counted())
    states = {item.reference.file: item.state for item in survey_offline(cache, want)}
    assert states == dict(zip(sorted(shards), (State.HERE, State.MISSING), strict=True))


def test_offline_an_empty_cache_lacks_everything(cache: HubCache) -> None:
    (item,) = survey_offline(cache, wanted_reference(HubReference(NAME)))
    assert (str(item.reference), item.state) == (NAME, State.MISSING)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_verifying_finds_a_damaged_file(name: str, online: bool, server: LocalHub, hub: Hub, cache: HubCache) -> None:
    paths = {path.name: path for path in fetched(hub, HubReference(NAME))}
    data = bytearray(paths[name].read_bytes())
    data[3] ^= 1
    paths[name].write_bytes(data)
    wanted = wanted_reference(HubReference(NAME))
    items = survey(hub, wanted) if online else survey_offline(cache, wanted)
    progress = Counted()
    checked = verify(items, cache, progress)
    assert {item.reference.file for item in checked if item.state is State.DAMAGED} == {name}
    assert progress.bytes == sum(path.stat().st_size for path in paths.values())
    assert len(progress.names) == 3
    if online:
        fetch(hub, checked, Counted())
        assert paths[name].read_bytes() == server.repositories[NAME].files[name]


def test_a_blob_that_repositories_share_is_verified_by_its_name(
    server: LocalHub, hub: Hub, cache: HubCache, tmp_path: Path
) -> None:
    """huggingface_hub keeps contents in one place for all, under another checksum, and links to them."""
    (path,) = fetched(hub)
    blob = path.parent / os.readlink(path)
    shared = cache.folder / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    os.replace(blob, shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    wanted = wanted_reference(MODEL)
    assert [item.state for item in verify(survey_offline(cache, wanted), cache, Counted())] == [State.HERE]
    assert [item.state for item in verify(survey(hub, wanted), cache, Counted())] == [State.HERE]
    shared.write_bytes(b"y" + shared.read_bytes()[1:])
    assert [item.state for item in verify(survey_offline(cache, wanted), cache, Counted())] == [State.DAMAGED]


def test_a_file_of_another_size_is_fetched_again(server: LocalHub, hub: Hub) -> None:
    (path,) = fetched(hub)
    path.write_bytes(path.read_bytes()[:-5])
    (item,) = items_of(hub)
    assert (item.state, item.missing_bytes) == (State.DAMAGED, 3_000_000)
    assert fetch(hub, [item], Counted()) == [path]
    assert path.read_bytes() == server.repositories[NAME].files[MODEL.file]


def test_unknown_sets_formats_and_parts_are_named() -> None:
    with pytest.raises(UsageError, match=r"did you mean ltx-2.5-distilled\?"):
        download.known_set("ltx-2.5-distiled", None)
    with pytest.raises(UsageError, match="is not known in the format 'fp8'; it is in int8, bf16"):
        download.known_set("ltx-2.5-distilled", "fp8")
    with pytest.raises(UsageError, match="has no part 'vae'; it has transformer, text_encoder, video_vae"):
        download.parts_of(download.known_set("ltx-2.5-distilled", None), ["vae"])
