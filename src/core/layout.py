"""How a parameter is read as a matrix W of the layer Z = H Wᵀ: which of its axes are W's rows.

Torch's Linear has W itself, (m, d), and its convolutions have kernels as rows, (m, c, k, k) for d =
c·k·k (paper, appendix C.1). Other layers keep their weights otherwise, and a parameter does not
know its layer: `model_layouts` reads the layouts off a model's modules. Ours.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

# their weights are looked up or multiply feature by feature: not matrices that features pass
LEFT_ALONE = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Layout:
    """A parameter as `groups` matrices W (m, d), by the axes that are left without its batch axes.

    rows: the axes of W's rows; all others, in their order, are its columns.
    groups: equal blocks of axis 0, each of them a matrix of its own.
    """

    rows: tuple[int, ...] = (0,)
    groups: int = 1

    def read(self, parameter: Tensor, batch_dims: int = 0) -> Tensor:
        """The matrices (…, groups, m, d) of a parameter with `batch_dims` batch axes (…)."""
        view = self._view(parameter, batch_dims)
        first = batch_dims + 1
        return view.flatten(first, batch_dims + len(self.rows)).flatten(first + 1)

    def write(self, parameter: Tensor, matrices: Tensor, batch_dims: int = 0) -> None:
        """Set a parameter to what `read` is to return, in place."""
        view = self._view(parameter, batch_dims)
        view.copy_(matrices.reshape(view.shape))

    def _view(self, parameter: Tensor, batch_dims: int) -> Tensor:
        """(…, groups, *rows, *columns), in the parameter's memory."""
        blocks = parameter.unflatten(batch_dims, (self.groups, -1))
        axes = range(batch_dims + 1, blocks.ndim)
        rows = [axes[i] for i in self.rows]
        columns = [axis for axis in axes if axis not in rows]
        return blocks.permute(*range(batch_dims + 1), *rows, *columns)


def model_layouts(model: nn.Module) -> dict[nn.Parameter, Layout]:
    """The layout of every weight of a model.

    - Convolutions: kernels are rows, every group is a matrix.
    - Transposed convolutions, (c, m/groups, k, …): a pixel's channels are H, so that a row is an
      output channel at a place of the kernel.
    - transformers' Conv1D: (d, m).
    - Any other parameter of two axes or more: the first axis is the rows, as in a Linear.

    Embeddings have none, even where a layer shares their weight, nor have normalisations.
    """
    layouts, left_alone = {}, set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, LEFT_ALONE):
                left_alone.add(parameter)
            elif parameter.ndim > 1:
                layouts[parameter] = _layout(module, parameter)
    return {p: layout for p, layout in layouts.items() if p not in left_alone}


def _layout(module: nn.Module, weight: nn.Parameter) -> Layout:
    if isinstance(module, _ConvTransposeNd):
        return Layout(tuple(range(1, weight.ndim)), module.groups)
    if isinstance(module, _ConvNd):
        return Layout(groups=module.groups)
    if type(module).__name__ == "Conv1D":  # by name: core does not import transformers
        return Layout(rows=(1,))
    return Layout()
