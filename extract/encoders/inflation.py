"""2-D weights for 3-D networks: a 2-D ResNet-18 expanded along time.

Carreira and Zisserman, "Quo Vadis, Action Recognition?" (I3D, 2017): every kernel is repeated along time and divided
by the length, so that a clip of identical frames gives what one frame gave. What exactly holds for torchvision's
``r3d_18`` and ``mc3_18``: they have no max-pool behind the stem, so the 2-D network to compare with has none either;
and they pad time with zeros, so positions whose receptive field reaches over an end of the clip come out smaller. All
others are equal up to rounding. In ``mc3_18`` only the stem and stage 1 look along time: there all but the 5 outer
positions at either end are equal, in every stage. In ``r3d_18`` the field reaches 5 pictures to either side in stage 1,
12 in stage 2, 26 in stage 3 and 54 in stage 4.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from ...core.errors import UsageError

_RENAMED = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^(layer\d\.\d)\.conv(\d)\.", r"\1.conv\2.0."),
    (r"^(layer\d\.\d)\.bn(\d)\.", r"\1.conv\2.1."),
)


def inflate(state: dict[str, Tensor], network: nn.Module, where: str) -> dict[str, Tensor]:
    """Expand the state of torchvision's 2-D ResNet-18 into that of ``network``.

    Args:
        state: of the 2-D network; its classifier is left out.
        network: torchvision's ``r3d_18`` or ``mc3_18``.
        where: named in errors.

    Raises:
        UsageError: a name or a shape does not fit; the message names it.
    """
    own = network.state_dict()
    result = {}
    for name, value in state.items():
        if name.startswith("fc."):
            continue
        target = name
        for pattern, replacement in _RENAMED:
            target = re.sub(pattern, replacement, target)
        if target not in own:
            raise UsageError(f"{where} is no 2-D ResNet-18: {name} has no place in the 3-D network")
        wanted = own[target]
        if value.ndim == 4 and wanted.ndim == 5:
            length = wanted.shape[2]
            value = value.unsqueeze(2).repeat(1, 1, length, 1, 1) / length
        if value.shape != wanted.shape:
            raise UsageError(
                f"{where} is no 2-D ResNet-18: {name} is {tuple(value.shape)} after expansion and should be "
                f"{tuple(wanted.shape)}"
            )
        result[target] = value
    return result
