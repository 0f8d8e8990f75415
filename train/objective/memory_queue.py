"""A first-in first-out memory of keys (MoCo): many negatives for the price of a few.

Differs from the published code in what broke there: any number of keys may arrive at once (the writing position wraps;
of more than fit, the newest stay), and slots that were never written are marked empty instead of holding random
vectors that act as negatives.
"""

from __future__ import annotations

import torch

from ...core.errors import UsageError
from .masks import NO_VIDEO


class MemoryQueue:
    """Ring buffer of keys with the video and group number of each.

    Args:
        size: slots; 0 makes a queue that stays empty.
        dim: dimension of a key.
        num_groups: G, group numbers per video (see `masks`).
        device, dtype: of the keys.

    Attributes:
        keys: [size, dim]; rows that were never written are zero.
        videos, groups: int64 [size] and [size, G]; `NO_VIDEO` in rows that were never written.
        position: slot that is written next.
        count: slots in use.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        num_groups: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if size < 0:
            raise UsageError(f"--queue-size is {size}; use 0 for no queue, or a positive number of keys")
        self.keys = torch.zeros(size, dim, device=device, dtype=dtype)
        self.videos = torch.full((size,), NO_VIDEO, dtype=torch.int64, device=device)
        self.groups = torch.full((size, num_groups), NO_VIDEO, dtype=torch.int64, device=device)
        self.position = 0
        self.count = 0

    @property
    def size(self) -> int:
        """Number of slots."""
        return len(self.keys)

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor, videos: torch.Tensor, groups: torch.Tensor) -> None:
        """Write keys [M, dim] of videos int64 [M] with groups int64 [M, G] over the oldest; the last are the newest."""
        if not len(keys) == len(videos) == len(groups):
            raise ValueError(f"{len(keys)} keys with {len(videos)} videos and {len(groups)} groups")
        if self.size == 0 or len(keys) == 0:
            return
        arrived = len(keys)
        keys, videos, groups = keys[-self.size :], videos[-self.size :], groups[-self.size :]
        # Where the last of all arrivals would fall if every one of them were written.
        end = (self.position + arrived) % self.size
        slots = (torch.arange(-len(keys), 0, device=self.keys.device) + end) % self.size
        self.keys[slots] = keys.detach().to(self.keys)
        self.videos[slots] = videos.to(self.videos)
        self.groups[slots] = groups.to(self.groups)
        self.position = end
        self.count = min(self.size, self.count + arrived)

    def state_dict(self) -> dict[str, torch.Tensor | int]:
        """Everything needed to go on exactly: copies of the tensors, position and count."""
        return {
            "keys": self.keys.detach().clone(),
            "videos": self.videos.clone(),
            "groups": self.groups.clone(),
            "position": self.position,
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, torch.Tensor | int]) -> None:
        """Take over what `state_dict` returned. Raises ValueError when the size or dimension differs."""
        keys, groups = torch.as_tensor(state["keys"]), torch.as_tensor(state["groups"])
        if keys.shape != self.keys.shape or groups.shape != self.groups.shape:
            raise ValueError(f"a queue of {tuple(keys.shape)} cannot be loaded into one of {tuple(self.keys.shape)}")
        self.keys.copy_(keys)
        self.videos.copy_(torch.as_tensor(state["videos"]))
        self.groups.copy_(groups)
        self.position, self.count = int(state["position"]), int(state["count"])
