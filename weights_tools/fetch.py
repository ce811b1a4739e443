"""Fetch: bring the official weights from the network into the cache, whole and checked.

`fetch("mixnet-l")` downloads the archive that MixNet's authors published and extracts it. The
files, all in the cache folder (`tinymixnet.engine.weights.cache_dir()`):

    mixnet-l.tar.gz        the archive as published; you may put it there by hand
    mixnet-l.tar.gz.part   what has arrived of it so far; the next call goes on from there
    mixnet-l.h5            the weights, which `tinymixnet.load("mixnet-l")` reads
    mixnet-l.lock          empty; the process that holds its lock does the work, the others wait
    mixnet-m.sha256        the hash of the first good archive, of networks without a published one

A name without `.part` always means a whole file: each is made beside its place and moved there.

No hash of mixnet-s and mixnet-m was ever published, so nobody can tell whether an archive is the
one that the authors made. These checks remain: the size (mixnet-s only), TensorFlow's checksums of
all tensors that are taken, their names and their shapes. The first archive that passes them is
trusted, and its SHA-256 is written to the .sha256 file, one line as `sha256sum --check` reads it.
From then on, any other archive is refused. To accept a new one, remove the .sha256 file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tinymixnet.engine.weights import cache_dir, read_weights
from tinymixnet.errors import FetchError, TinyMixNetError, WeightsError, printable, short_repr
from tinymixnet.evaluate.imagenet import PUBLISHED as PUBLISHED_SHARES
from weights_tools.assemble import content_hash
from weights_tools.cache_files import (
    is_there,
    kind,
    lock,
    open_file,
    read_sha256,
    remove_leftovers,
    size_of,
    write_sha256,
)
from weights_tools.download import MAX_BYTES, download
from weights_tools.extract import extract
from weights_tools.messages import failure, foreign, say, show_url


class Archive(NamedTuple):
    """A published archive: where it lies, its bytes and SHA-384 (None: not published), and how
    often its network is right on ImageNet's validation photos at 224 pixels, preset `tf`.
    """

    urls: tuple[str, ...]
    size: int | None
    sha384: str | None
    accuracy: str = ""


def _accuracy(name: str) -> str:
    top1, top5 = PUBLISHED_SHARES[name]["tf"]
    return f"top-1 {top1:.5f}, top-5 {top5:.5f}"


# The first URLs are those of the README in the TensorFlow TPU repository (models/official/mnasnet/
# mixnet). Size, SHA-384 and the second URL of mixnet-l are those of the Open Model Zoo's entry;
# the size of mixnet-s is that of the file on the authors' server.
OFFICIAL = "https://storage.googleapis.com/cloud-tpu-checkpoints/mixnet/"
OPEN_MODEL_ZOO = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/"
ARCHIVES = {
    "mixnet-l": Archive(
        urls=(OFFICIAL + "mixnet-l.tar.gz", OPEN_MODEL_ZOO + "mixnet-l/mixnet-l.tar.gz"),
        size=54_302_843,
        sha384="6207ab87851c7e2c8f3dafe716a596b2f52dd88c6c5db0d5"
        "1795e312f3cad62c715a35c1f03311084f43566660ac691b",
        accuracy=_accuracy("mixnet-l"),
    ),
    "mixnet-m": Archive(
        urls=(OFFICIAL + "mixnet-m.tar.gz",),
        size=None,
        sha384=None,
        accuracy=_accuracy("mixnet-m"),
    ),
    "mixnet-s": Archive(
        urls=(OFFICIAL + "mixnet-s.tar.gz",),
        size=30_633_801,
        sha384=None,
        accuracy=_accuracy("mixnet-s"),
    ),
}
LICENCE = "Apache-2.0, from the TensorFlow TPU repository"
PUBLISHED = " on ImageNet's validation photos, as published; not measured here"
CLASSES = 1000  # of all official networks: ImageNet's


class CacheFiles(NamedTuple):
    """The paths of one network's files; the module's docstring says what is in them."""

    weights: Path
    packed: Path
    part: Path
    lock: Path
    sha256: Path


def fetch(name: str) -> Path:
    """Download a network's official weights, unless they are there, and return the path of the .h5.

    name: "mixnet-l", "mixnet-m" or "mixnet-s". The environment variable TINYMIXNET_MIRROR, a base
    URL such as http://127.0.0.1:8000, replaces the servers: the archive is then
    TINYMIXNET_MIRROR/mixnet-l.tar.gz. Reports on stderr. Any number of processes may call at once.

    Raises FetchError for an unknown name, a server that does not deliver, a file that is not the
    published one, a cache that cannot be written or holds something else under one of the names
    above. CheckpointError and WeightsError are `extract`'s.
    """
    if not isinstance(name, str) or name not in ARCHIVES:
        raise failure(
            f"no network {short_repr(name)} can be fetched; there are {', '.join(ARCHIVES)}"
        )
    folder = cache_dir()
    names = (f"{name}{end}" for end in (".h5", ".tar.gz", ".tar.gz.part", ".lock", ".sha256"))
    files = CacheFiles(*(folder / file for file in names))
    try:
        if not _has_weights(name, files):
            folder.mkdir(parents=True, exist_ok=True)
            with lock(files.lock, name):
                if not _has_weights(name, files):  # another process may have made them meanwhile
                    remove_leftovers(folder, name)
                    _make_weights(name, files)
                    return files.weights
        say(f"{files.weights} is already there")
        return files.weights
    except OSError as error:  # the network's are caught where they arise: this one is the disk's
        raise failure(
            f"cannot write in the cache folder {folder}: {error}. Make room or give yourself the "
            "right to write there, or set TINYMIXNET_HOME to another folder; then run again"
        ) from error


def _has_weights(name: str, files: CacheFiles) -> bool:
    """Return whether the weights are there. FetchError if something else has their name."""
    path = files.weights
    if not os.path.lexists(path):
        return False
    problem = _weights_problem(name, files)
    if problem:
        raise failure(f"{path} is not {name} as published: {problem}; remove it and run again")
    return True


def _weights_problem(name: str, files: CacheFiles) -> str:
    """Return what is wrong with the .h5 file in the cache, an empty text if nothing is."""
    path = files.weights
    if not path.is_file():  # follows links: the weights may lie elsewhere, they are only read
        to = " to nothing that can be read" if path.is_symlink() else ""
        return f"it is {kind(path.lstat().st_mode)}{to}"
    try:
        architecture, _, metadata = read_weights(path)
    except WeightsError as error:
        return str(error).removeprefix(f"{printable(path)}: ")
    if (architecture.variant, architecture.classes) != (name, CLASSES):
        return (
            f"expected {name} with {CLASSES} classes, found {architecture.variant} with "
            f"{architecture.classes}"
        )
    remembered = _remembered(name, files)
    if remembered not in (None, metadata.source_sha256):
        source = foreign(metadata.source_sha256) or "unknown"
        return (
            f"it was extracted from a file with SHA-256 {source}, {files.sha256} remembers "
            f"{remembered} (to trust this file, remove that one instead)"
        )
    return ""


def _remembered(name: str, files: CacheFiles) -> str | None:
    """Return the SHA-256 of the first good archive, for a network without a published hash."""
    return read_sha256(files.sha256) if ARCHIVES[name].sha384 is None else None


def _make_weights(name: str, files: CacheFiles) -> None:
    """Extract the archive to the weights file; download the archive unless it is there already."""
    archive = ARCHIVES[name]
    remembered = _remembered(name, files)
    if is_there(files.packed):
        try:
            _check_published(files.packed, archive, str(files.packed))
        except FetchError as error:
            say(f"{error}; fetching it anew")
    if is_there(files.packed):  # _check_published removes a wrong file
        _check_remembered(files.packed, remembered, files, str(files.packed))
    else:
        _download(name, archive, remembered, files)
    _extract(name, archive, files)
    if archive.sha384 is None:
        digest = remembered or _digest(files.packed, "sha256")
        if not remembered:
            write_sha256(files.sha256, digest, files.packed.name)
        _say_what_was_checked(name, archive, digest, files)


def _extract(name: str, archive: Archive, files: CacheFiles) -> None:
    try:
        extract(
            files.packed,
            files.weights,
            variant=name,
            licence=LICENCE,
            accuracy=archive.accuracy + PUBLISHED,
        )
    except TinyMixNetError as error:
        if archive.sha384 is not None:
            raise
        # Without a published hash only this could show that the file is bad; keeping it would make
        # every later call fail the same way.
        files.packed.unlink()
        raise failure(f"{files.packed} was no {name} checkpoint and is removed: {error}") from error


def _say_what_was_checked(name: str, archive: Archive, digest: str, files: CacheFiles) -> None:
    missing = "hash" if archive.size else "size or hash"
    size = f"the size, {archive.size} bytes, as published; " if archive.size else ""
    say(f"no {missing} of {name} was ever published: this may be another file than the authors'")
    say(
        f"checked: {size}TensorFlow's own checksums of all tensors taken, their names and shapes. "
        "Not checked: who made them"
    )
    say(
        f"its SHA-256 is {digest}, remembered in {files.sha256}: from now on an archive with "
        "another one is refused"
    )


def _download(name: str, archive: Archive, remembered: str | None, files: CacheFiles) -> None:
    """Make the archive from the first server that delivers the right file, byte for byte."""
    failures = []
    urls = _urls(name, archive)
    for url in urls:
        try:
            _download_from(url, archive, remembered, files)
            return
        except FetchError as error:
            if url != urls[-1]:
                say(str(error))
            failures.append(str(error))
        except KeyboardInterrupt:
            say(f"stopped; {size_of(files.part)} bytes are kept in {files.part} for the next run")
            raise
    if kept := size_of(files.part):
        failures.append(f"{kept} bytes are kept in {files.part}; running again resumes there")
    else:
        files.part.unlink(missing_ok=True)
    size = f"{archive.size} bytes" if archive.size else "size not published"
    raise failure(
        f"cannot fetch {files.packed.name}: {'; '.join(failures)}. "
        f"Without a network: get {archive.urls[0]} some other way ({size}, "
        f"SHA-384 {archive.sha384 or 'not published'}), put it at {files.packed} and run again"
    )


def _download_from(url: str, archive: Archive, remembered: str | None, files: CacheFiles) -> None:
    """Make the archive from one server, from its first byte if resuming gave a wrong file."""
    resumed = size_of(files.part) > 0
    download(url, files.part, archive.size)
    try:
        _check_published(files.part, archive, show_url(url))
        _check_remembered(files.part, remembered, files, show_url(url))
    except FetchError as error:  # the file is removed, so this happens once
        if not resumed:
            raise
        say(f"{error}; its beginning was from an earlier run, fetching all of it anew")
        _download_from(url, archive, remembered, files)
    else:
        os.replace(files.part, files.packed)


def _urls(name: str, archive: Archive) -> tuple[str, ...]:
    """Return the addresses to try, in order: only the user's mirror if there is one."""
    mirror = os.environ.get("TINYMIXNET_MIRROR")
    if not mirror:
        return archive.urls
    if not mirror.lower().startswith(("http://", "https://")):
        shown = show_url(mirror)
        raise failure(f"TINYMIXNET_MIRROR is '{shown}'; expected an http:// or https:// URL")
    return (f"{mirror.rstrip('/')}/{name}.tar.gz",)


def _check_published(file: Path, archive: Archive, source: str) -> None:
    """Check size and SHA-384 against the published ones; remove a file that differs and raise."""
    size = size_of(file)
    actual, wanted = f"{size} bytes", f"{archive.size} bytes"
    if archive.size is None:
        wanted = actual if size <= MAX_BYTES else f"at most {MAX_BYTES} bytes"
    if actual == wanted and archive.sha384 is not None:
        actual, wanted = f"SHA-384 {_digest(file, 'sha384')}", f"SHA-384 {archive.sha384}"
    if actual != wanted:
        file.unlink()
        raise failure(f"{source}: expected {wanted}, found {actual}; the bad file is removed")


def _check_remembered(file: Path, remembered: str | None, files: CacheFiles, source: str) -> None:
    """Compare an archive with the first good one. Raises FetchError if it is another.

    A download that differs is removed; an archive put there by hand stays where it is.
    """
    if remembered is None or (actual := _digest(file, "sha256")) == remembered:
        return
    what_to_do = f"If you want this one all the same, remove {files.sha256} and run again"
    if file == files.part:
        file.unlink()
    else:
        what_to_do += f"; else remove {file}"
    raise failure(
        f"{source}: not the archive that was extracted first, expected SHA-256 {remembered}, found "
        f"{actual}. {what_to_do}"
    )


def _digest(file: Path, algorithm: str) -> str:
    with open_file(file, "rb") as opened:
        return content_hash(opened, algorithm)
