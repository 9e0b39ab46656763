"""Latents come back as they were kept, or not at all; trouble with the cache stops nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engines.xtts.net.latents import LatentCache
from tests.depriving import as_an_ordinary_user
from tests.spooling import PATIENCE_S, ROOT

KEY, OTHER = "0" * 40, "f" * 40
ARRAYS = {
    "gpt": np.linspace(-1, 1, 600, dtype=np.float32).reshape(1, 20, 30),
    "speaker": np.ones((1, 5, 1), np.float32),
}


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return LatentCache(tmp_path)


def files(cache: LatentCache) -> list[Path]:
    assert cache.folder is not None
    return sorted(cache.folder.iterdir())


def keep(cache: LatentCache, key: str, kib: int, used_s: float | None = None) -> None:
    """Keep an entry of about that size, used so long ago."""
    cache.put(key, {"x": np.zeros(kib * 256, np.float32)})
    if used_s is not None and cache.folder is not None:
        os.utime(cache.folder / f"{key}.latents", (0, time.time() - used_s))


def test_arrays_come_back_bit_for_bit(cache: LatentCache) -> None:
    """Values, shapes and names; by another process's cache too, since nothing is remembered in memory."""
    cache.put(KEY, ARRAYS)
    assert cache.folder is not None
    back = LatentCache(cache.folder).get(KEY)
    assert back is not None
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].dtype == np.float32
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    assert cache.get(OTHER) is None


def test_the_newest_under_a_key_counts(cache: LatentCache) -> None:
    """Put again, an entry is replaced, and nothing is left behind."""
    cache.put(KEY, ARRAYS)
    cache.put(KEY, {"x": np.zeros(3, np.float32)})
    assert set(cache.get(KEY) or {}) == {"x"}
    assert len(files(cache)) == 1


def test_every_kind_of_damage_counts_as_absent_and_is_cleared_away(cache: LatentCache) -> None:
    """Emptied, cut off, appended to, one bit changed anywhere."""
    cache.put(KEY, {"x": np.arange(4, dtype=np.float32)})
    (file,) = files(cache)
    whole = file.read_bytes()
    damaged = [b"", whole[:-1], whole[:40], whole + b"x", bytes(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in damaged:
        file.write_bytes(data)
        assert cache.get(KEY) is None
        assert not file.exists()


def test_what_is_not_finite_is_not_kept(cache: LatentCache) -> None:
    """A NaN of a bad moment would spoil every job to come."""
    for value in (np.nan, np.inf):
        cache.put(KEY, {"x": np.array([0, value], np.float32)})
        assert cache.get(KEY) is None
    assert files(cache) == []


def test_what_was_not_used_longest_goes_first(tmp_path: Path) -> None:
    """To be asked for is to be used; the sum stays below the bound."""
    cache = LatentCache(tmp_path, max_bytes=3500 << 10)
    keys = [f"{number:040x}" for number in range(4)]
    for number, key in enumerate(keys[:3]):
        keep(cache, key, 1000, used_s=1000 - number)
    cache.get(keys[0])
    keep(cache, keys[3], 1000)
    assert [key for key in keys if cache.get(key)] == [keys[0], keys[2], keys[3]]
    assert sum(file.stat().st_size for file in files(cache)) <= cache.max_bytes


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    """And pushes nothing out."""
    cache = LatentCache(tmp_path, max_bytes=100 << 10)
    keep(cache, KEY, 50)
    keep(cache, OTHER, 200)
    assert cache.get(OTHER) is None
    assert cache.get(KEY) is not None


def test_what_a_killed_process_left_is_swept_in_time(cache: LatentCache) -> None:
    """Half-written files of an hour ago go, those that may still be written stay, others' files are left alone."""
    assert cache.folder is not None
    for name, age_s in (("a.part", 7200), ("b.part", 10), ("README", 7200)):
        (cache.folder / name).write_bytes(b"half")
        os.utime(cache.folder / name, (0, time.time() - age_s))
    cache.put(KEY, ARRAYS)
    assert [file.name for file in files(cache)] == [f"{KEY}.latents", "README", "b.part"]


def test_a_key_is_a_digest(cache: LatentCache) -> None:
    """Anything else is a mistake of the engine's, and could lead out of the folder."""
    for key in ("../" + KEY, "", "abc", KEY.upper().replace("0", "A"), KEY + "\n", "é" * 40):
        with pytest.raises(ValueError, match="digest"):
            cache.get(key)
        with pytest.raises(ValueError, match="digest"):
            cache.put(key, ARRAYS)
    with pytest.raises(ValueError, match="float32"):
        cache.put(KEY, {"x": np.zeros(3)})  # type: ignore[dict-item]


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    """There is none, it is gone, it is a file, or a folder has taken an entry's name."""
    (tmp_path / "file").touch()
    (tmp_path / "taken" / f"{KEY}.latents").mkdir(parents=True)
    for folder in (None, tmp_path / "gone", tmp_path / "file", tmp_path / "taken"):
        cache = LatentCache(folder)
        cache.put(KEY, ARRAYS)
        assert cache.get(KEY) is None
    assert [path.name for path in (tmp_path / "taken").iterdir()] == [f"{KEY}.latents"]


def test_it_lies_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of the box."""
    monkeypatch.setenv("VOICESPOOL_CACHE", str(tmp_path))
    LatentCache().put(KEY, ARRAYS)
    assert [path.name for path in (tmp_path / "latents").iterdir()] == [f"{KEY}.latents"]


def test_a_read_only_folder_still_gives(cache: LatentCache) -> None:
    """Entries are read where none can be written, and damaged ones are no obstacle."""
    assert cache.folder is not None
    keep(cache, KEY, 1)
    (cache.folder / f"{OTHER}.latents").write_bytes(b"damaged")
    cache.folder.chmod(0o500)
    code = (
        "import sys; from pathlib import Path; from engines.xtts.net.latents import LatentCache\n"
        "import numpy\n"
        "cache = LatentCache(Path(sys.argv[1]))\n"
        f"cache.put({'a' * 40!r}, {{'x': numpy.zeros(3, numpy.float32)}})\n"
        f"print([cache.get(key) is not None for key in ({KEY!r}, {OTHER!r}, {'a' * 40!r})])"
    )
    try:
        said = run(code, cache.folder)
    finally:
        cache.folder.chmod(0o700)
    assert said == "[True, False, False]\n"


def run(code: str, folder: Path) -> str:
    """What Python code prints that gets a folder, run by a user for whom permissions count."""
    words = [*as_an_ordinary_user(), sys.executable, "-c", code, str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_full_disk_is_no_obstacle(cache: LatentCache) -> None:
    """What does not fit is not kept, leaves nothing behind, and the next one that fits is kept."""
    assert cache.folder is not None
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.unit.engines.xtts.net.test_latents import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "cache = LatentCache(Path(sys.argv[1]))\n"
        "keep(cache, KEY, 500)\n"
        "keep(cache, OTHER, 50)\n"
        "print(cache.get(KEY) is None)"
    )
    assert run(code, cache.folder) == "True\n"
    assert [file.name for file in files(cache)] == [f"{OTHER}.latents"]


def hammer(folder: Path, seed: int) -> None:
    """Put and get a few keys, over and over; whatever comes back must be what its key stands for."""
    cache = LatentCache(folder, max_bytes=40 << 10)
    random = np.random.default_rng(seed)
    for _ in range(150):
        number = int(random.integers(8))
        key = f"{number:040x}"
        found = cache.get(key)
        assert found is None or np.array_equal(found["x"], np.full(2000, number, np.float32))
        cache.put(key, {"x": np.full(2000, number, np.float32)})


def test_several_processes_share_it(cache: LatentCache) -> None:
    """While all of them write, read and make room at once, nobody fails or sees another's half."""
    assert cache.folder is not None
    code = (
        "import sys; from pathlib import Path; from tests.unit.engines.xtts.net.test_latents import hammer\n"
        "hammer(Path(sys.argv[1]), int(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, str(cache.folder)]
    processes = [subprocess.Popen([*words, str(seed)], cwd=ROOT) for seed in range(4)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0] * 4
    LatentCache(cache.folder, max_bytes=40 << 10).put(KEY, {"x": np.zeros(3, np.float32)})
    assert sum(file.stat().st_size for file in files(cache)) <= 40 << 10
    assert all(file.suffix == ".latents" for file in files(cache))
