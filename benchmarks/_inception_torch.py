"""Inception in PyTorch, as functions of the published tensors: convolution, batch norm and rectifier one by one."""

import os
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class TorchInception(NamedTuple):
    """The network, channels first.

    Attributes:
      tensors: the published tensors by their names.
    """

    tensors: dict[str, Tensor]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features `[B, 2048]` of images `[B, H, W, 3]`, uint8, resized as TensorFlow 1 does."""
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            x = _resized(_resized(x, 3), 2)
            return self._features((x - 128) / 128).mean((2, 3)).numpy()

    def _features(self, x: Tensor) -> Tensor:
        conv = self._conv
        x = conv(conv(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3")
        x = _pool(conv(x, "Conv2d_2b_3x3", same=True))
        x = _pool(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
        for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._block(x, block, [["1x1"], ["5x5_1", "5x5_2"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"]])
        x = self._halved(x, "Mixed_6a", [["3x3"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"]])
        double = [f"7x7dbl_{i}" for i in range(1, 6)]
        for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._block(x, block, [["1x1"], ["7x7_1", "7x7_2", "7x7_3"], double])
        x = self._halved(x, "Mixed_7a", [["3x3_1", "3x3_2"], [f"7x7x3_{i}" for i in range(1, 5)]])
        for block in ("Mixed_7b", "Mixed_7c"):
            side_by_side = [["3x3_1", "3x3_2a"], ["3x3_1", "3x3_2b"]]
            side_by_side += [["3x3dbl_1", "3x3dbl_2", f"3x3dbl_3{side}"] for side in "ab"]
            x = self._block(x, block, [["1x1"], *side_by_side], largest=block == "Mixed_7c")
        return x

    def _conv(self, x: Tensor, name: str, *, stride: int = 1, same: bool = False) -> Tensor:
        """A convolution with its batch norm and rectifier; its padding keeps the size if `same`."""
        kernel = self.tensors[f"{name}.conv.weight"]
        padding = (kernel.shape[2] // 2, kernel.shape[3] // 2) if same else 0
        mean, variance, scale, offset = (
            self.tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        h = functional.conv2d(x, kernel, stride=stride, padding=padding)
        return functional.relu(functional.batch_norm(h, mean, variance, scale, offset, eps=0.001), inplace=True)

    def _block(self, x: Tensor, block: str, branches: list[list[str]], *, largest: bool = False) -> Tensor:
        """A block that keeps the size; a convolution in which two branches begin is computed once."""
        done: dict[tuple[str, ...], Tensor] = {(): x}
        for branch in branches:
            for end in range(1, len(branch) + 1):
                path = tuple(branch[:end])
                if path not in done:
                    done[path] = self._conv(done[path[:-1]], f"{block}.branch{path[-1]}", same=True)
        of_neighbours = functional.max_pool2d if largest else partial(functional.avg_pool2d, count_include_pad=False)
        last = self._conv(of_neighbours(x, 3, 1, 1), f"{block}.branch_pool", same=True)
        return torch.cat([*(done[tuple(branch)] for branch in branches), last], 1)

    def _halved(self, x: Tensor, block: str, branches: list[list[str]]) -> Tensor:
        """A block whose branches end in a convolution of stride 2."""
        outputs = []
        for *names, last in branches:
            h = x
            for name in names:
                h = self._conv(h, f"{block}.branch{name}", same=True)
            outputs.append(self._conv(h, f"{block}.branch{last}", stride=2))
        return torch.cat([*outputs, _pool(x)], 1)


def torch_inception(tensors: dict[str, np.ndarray]) -> TorchInception:
    """The network of these tensors, on as many threads as there are cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    return TorchInception({name: torch.from_numpy(array) for name, array in tensors.items()})


def _pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, 2)


def _resized(x: Tensor, axis: int) -> Tensor:
    """TensorFlow 1's linear interpolation to 299 pixels along an axis."""
    size = x.shape[axis]
    at = torch.arange(299) * (size / 299)
    low = at.long()
    share = (at - low).reshape(-1, *(1,) * (3 - axis))
    first, second = (x.index_select(axis, index.clamp_max(size - 1)) for index in (low, low + 1))
    return first + (second - first) * share
