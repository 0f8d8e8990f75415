"""iMAC: a frame's descriptor from the intermediate layers of a convolutional network.

Source: Kordopatis-Zilos et al., "Near-Duplicate Video Retrieval by Aggregating Intermediate CNN Layers" (2017), in the
form that TCA (WACV 2021) uses: for each chosen layer, every location is L2-normalised across channels, the maximum is
taken over space, the result is L2-normalised, and the layers are concatenated. The concatenation is NOT normalised
again: with L layers its norm is sqrt(L), 2 for the four stages of a ResNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


def imac(maps: Sequence[Tensor]) -> Tensor:
    """Pool feature maps into one descriptor per frame.

    Args:
        maps: per layer [N, C_l, H_l, W_l] float, after the activation.

    Returns:
        [N, sum of C_l] of the same dtype; each layer's part has norm 1 (0 where a map is all zeros).
    """
    parts = []
    for x in maps:
        # amax over flattened space: one pass over memory in either layout
        pooled = functional.normalize(x, dim=1).flatten(2).amax(dim=2)
        parts.append(functional.normalize(pooled, dim=1))
    return torch.cat(parts, dim=1)


class ResNetIMAC(nn.Module):
    """A torchvision ResNet cut after its last stage, with iMAC over the outputs of its four stages.

    For ResNet-50 the parts are 256 + 512 + 1024 + 2048 = 3840 channels, at strides 4, 8, 16 and 32.
    """

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(resnet.get_submodule(name) for name in ("conv1", "bn1", "relu", "maxpool")))
        self.stages = nn.ModuleList(resnet.get_submodule(f"layer{number}") for number in (1, 2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] float, ImageNet-normalised -> [N, 3840] (for ResNet-50), norm 2."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return imac(maps)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Merge every batch norm into the convolution before it, in place; the outputs stay the same up to rounding.

    Holds for modules that apply ``conv1, bn1``, ``conv2, bn2``... or neighbours of a Sequential, as torchvision's
    ResNets do. Evaluation mode only.

    Returns:
        ``module``.

    Raises:
        ValueError: the module is in training mode, where a batch norm depends on its batch.
    """
    if module.training:
        raise ValueError("batch norms can be folded in evaluation mode only; call .eval() first")
    for parent in list(module.modules()):
        previous: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
    return module
