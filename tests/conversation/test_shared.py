from __future__ import annotations

import gc

import pytest
import torch

from video_llama.conversation.shared import CacheShelf, CacheSlot, MediaTokens, Shared

KIB = torch.zeros(256)
"""256 numbers of four bytes."""


def test_tokens_used_longest_ago_make_room() -> None:
    store = MediaTokens(max_bytes=2048)
    for key in ("a", "b"):
        store.put(key, KIB.clone())
    store.get("a")
    store.put("c", KIB.clone())
    gc.collect()
    assert [store.get(key) is not None for key in ("a", "b", "c")] == [True, False, True]
    assert store.num_bytes == 2048


def test_tokens_of_a_running_conversation_are_found_though_nobody_else_keeps_them() -> None:
    store = MediaTokens(max_bytes=0)
    held = KIB.clone()
    store.put("a", held)
    assert (len(store), store.get("a") is held) == (0, True)
    del held
    gc.collect()
    assert store.get("a") is None


def test_putting_the_same_twice_counts_once() -> None:
    store = MediaTokens(max_bytes=4096)
    store.put("a", KIB.clone())
    store.put("a", KIB.clone())
    assert store.num_bytes == 1024


def test_the_conversation_asked_longest_ago_loses_its_cache() -> None:
    shelf, slots = CacheShelf(num_caches=2), [CacheSlot() for _ in range(3)]
    made = [shelf.take(slot, make=object) for slot in slots[:2]]
    assert shelf.take(slots[0], make=object) is made[0]
    shelf.take(slots[2], make=object)
    assert [slot.cache is None for slot in slots] == [False, True, False]
    assert len(shelf) == 2


def test_a_conversation_that_is_gone_takes_no_place() -> None:
    shelf = CacheShelf(num_caches=1)
    slot = CacheSlot()
    shelf.take(slot, make=object)
    del slot
    gc.collect()
    assert len(shelf) == 0


def test_no_caches_at_all_can_be_asked_for() -> None:
    slot = CacheSlot()
    assert CacheShelf(num_caches=0).take(slot, make=object) is None
    assert slot.cache is None


@pytest.mark.parametrize("bounds", [{"media_gib": -1.0}, {"num_caches": -1}, {"patience_s": -1.0}])
def test_negative_bounds_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="negative"):
        Shared(**bounds)
