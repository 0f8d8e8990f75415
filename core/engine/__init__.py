"""The distributed engine: Horovod, torch.distributed or one process behind one small object.

``start`` is the entry; `base.Engine` says what it gives.
"""

from .base import Engine
from .start import start

__all__ = ["Engine", "start"]
