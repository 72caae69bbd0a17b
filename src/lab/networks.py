"""What experiments ask of a network of R replicas, and R replicas of any module.

The MLP of `models` and `Stacked`, which is made of a module of one's own, both give

    network(x)             images (R, N, …) -> logits (R, N, classes)
    network.with_hidden(x) features of the hidden layers in order, (R, N, d) each, and the logits
    network.readers        of the images and of each hidden layer W (R, m, d), the weight that alone
                           reads it, or None
    network.products(x)    what each of these weights makes of its inputs, and the logits
    network.row            shape of what the first of them reads at once, an image or a patch

and parameters with a leading replica axis, of which each replica uses its own row alone. The module
of one replica has a tuple `hidden`, the names of its parts whose features are the hidden layers: of
a Linear or Conv2d its inputs, which its weight alone reads; of any other part its outputs, which no
weight alone reads, as those of a residual block, so that measures of responses are nan. Maps and
tokens are averaged over positions; a convolution reads patches.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

from core.layers import PRODUCTS, Product
from lab.errors import ConfigError, first_line

CHUNK = 100  # samples whose patches are held at once


@dataclass(frozen=True)
class Reading:
    """What a weight makes of its inputs, Z = HWᵀ + b, with Z in the graph of the logits.

    A convolution's rows are patches, a token is a row; N′ counts all of a replica.
    """

    features: Tensor  # H (R, N′, d), without a graph
    weight: Tensor  # W (R, m, d), likewise
    outputs: Sequence[Tensor]  # Z as the layer gives it, of all replicas at once or one by one
    # what is shaped as the outputs -> (R, N′, m)
    rows: Callable[[Sequence[Tensor]], Tensor] = lambda outputs: outputs[0]

    def keep_gradients(self) -> None:
        for output in self.outputs:
            output.retain_grad()

    def gradient(self) -> Tensor:
        """A = ∂L/∂H (R, N′, d) by this weight alone, after `keep_gradients` and backward."""
        rows = self.rows([output.grad for output in self.outputs])
        if len(rows) == 1:  # as autograd multiplies it
            return (rows[0] @ self.weight[0])[None]
        return rows @ self.weight


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, a model is in evaluation mode, and measuring leaves running means as they are."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass
class _Call:
    """What one call of a replica's module shows of its parts, by name."""

    inputs: dict[str, Tensor | None] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)  # in the order in which they end


class Stacked(nn.Module):
    """R replicas of a module, with a leading axis R on every parameter and buffer.

    Each is called by itself, which any module allows, and computes what it would compute alone.
    Weights are torch's own draws, replica r's after the seed of generator r.

    Args:
        build: makes the module of one replica, with a tuple `hidden`; see above.
        generators: one a replica.
        shape: of one image.
        classes: outputs of the module.
        name: of the network, for messages.

    Raises:
        ConfigError: the module is not as the interface has it.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        generators: Sequence[torch.Generator],
        shape: Sequence[int],
        classes: int,
        name: str,
    ) -> None:
        super().__init__()
        modules = [_drawn(build, g) for g in generators]
        first = _check(_drawn(build, generators[0]), shape, classes, name)
        parameters, buffers = stack_module_state(modules)
        self.names, self.buffer_names = list(parameters), list(buffers)
        self.values = nn.ParameterList(
            nn.Parameter(p.detach(), p.requires_grad) for p in parameters.values()
        )
        for i, values in enumerate(buffers.values()):
            self.register_buffer(f"buffer{i}", values)
        # not a part of this one: its own parameters are no replica's
        object.__setattr__(self, "module", modules[0])
        self.layers = dict(modules[0].named_modules())
        self.first = first  # name of the layer that reads the images
        self.hidden_names = tuple(modules[0].hidden)
        kernel = tuple(self.layers[first].weight.shape[1:])
        self.row = kernel if len(kernel) == 3 or kernel[0] != math.prod(shape) else tuple(shape)

    def train(self, mode: bool = True) -> "Stacked":
        self.module.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Images (R, N, …) -> logits (R, N, classes)."""
        return torch.stack([logits for logits, _ in self._calls(x, ())])

    def with_hidden(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features (R, N, d) of each hidden layer, and logits (R, N, classes)."""
        logits, calls = zip(*self._calls(x, self.hidden_names), strict=True)
        features = [[self._features(name, call) for call in calls] for name in self.hidden_names]
        return [torch.stack(rows) for rows in features], torch.stack(logits)

    @property
    def readers(self) -> list[Tensor | None]:
        """W (R, m, d) that reads the images and each hidden layer, or None."""
        names = (self.first, *self.hidden_names)
        return [self._weight(name) if product(self.layers[name]) else None for name in names]

    def products(self, x: Tensor) -> tuple[list[Reading], Tensor]:
        """What each of the readers, without None, makes of its inputs, and the logits."""
        names = [n for n in (self.first, *self.hidden_names) if product(self.layers[n])]
        logits, calls = zip(*self._calls(x, names), strict=True)
        return [self._reading(name, calls) for name in names], torch.stack(logits)

    def _calls(self, x: Tensor, names: Sequence[str]) -> Iterator[tuple[Tensor, _Call]]:
        """Of each replica the logits and what the parts of these names show."""
        # one backward of all rows; of an index each replica's gradient would fill a whole stack
        rows = zip(*(values.unbind() for values in self.values), strict=True)
        buffers = [getattr(self, f"buffer{i}") for i in range(len(self.buffer_names))]
        layers = {name: self.layers[name] for name in names}
        for r, (images, row) in enumerate(zip(x, rows, strict=True)):
            own = dict(zip(self.names, row, strict=True))
            own |= {n: b[r] for n, b in zip(self.buffer_names, buffers, strict=True)}
            with _shown(layers) as call:
                logits = functional_call(self.module, own, (images,))
            yield logits, call

    def _weight(self, name: str) -> Tensor:
        values = self.values[self.names.index(f"{name}.weight")]
        return values.detach().flatten(2)  # (R, m, d)

    def _features(self, name: str, call: _Call) -> Tensor:
        """(N, d) of a hidden layer."""
        if reads := product(self.layers[name]):
            parts = call.inputs[name].split(CHUNK)
            rows = (reads.inputs(part)[0].unflatten(0, (len(part), -1)) for part in parts)
            return torch.cat([part.mean(1) for part in rows])  # of one position: itself
        outputs = call.outputs[name]
        return outputs.flatten(2).mean(2) if outputs.ndim > 3 else _over_tokens(outputs)

    def _reading(self, name: str, calls: Sequence[_Call]) -> Reading:
        reads = product(self.layers[name])
        features = torch.cat([reads.inputs(call.inputs[name]) for call in calls])
        outputs = [call.outputs[name] for call in calls]
        weight = self._weight(name)
        return Reading(features, weight, outputs, lambda o: torch.cat([*map(reads.outputs, o)]))


def product(layer: nn.Module) -> Product | None:
    """How a Linear or Conv2d reads its inputs; None for anything else."""
    if isinstance(layer, nn.Conv2d):
        read, _ = PRODUCTS[functional.conv2d]
        how = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        return read(None, layer.weight, **how)
    return Product() if isinstance(layer, nn.Linear) else None


def _over_tokens(outputs: Tensor) -> Tensor:
    return outputs.mean(1) if outputs.ndim == 3 else outputs


def _drawn(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """The module of one replica, whose draws are torch's after the generator's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return build()


@contextmanager
def _shown(layers: dict[str, nn.Module]) -> Iterator[_Call]:
    """Keep inputs and outputs of these parts while a module is called."""
    call = _Call()

    def keep(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        def hook(_: nn.Module, args: tuple, output: Tensor) -> Tensor:
            call.names.append(name)
            is_tensor = args and isinstance(args[0], Tensor)
            # copies: what follows may change them in place
            call.inputs[name] = args[0].detach().clone() if is_tensor else None
            call.outputs[name] = output
            return output.clone() if isinstance(output, Tensor) else output

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(keep(name)))
        yield call


def _check(module: nn.Module, shape: Sequence[int], classes: int, name: str) -> str:
    """The name of the layer that reads the images, of a module that is as the interface has it."""

    def refuse(reason: str) -> ConfigError:
        return ConfigError(f"architecture {name}: {reason}")

    if not isinstance(module, nn.Module):
        raise refuse(f"it makes a {type(module).__name__}, not a torch.nn.Module")
    hidden, layers = getattr(module, "hidden", None), dict(module.named_modules())
    if not isinstance(hidden, tuple | list) or not hidden or len(set(hidden)) < len(hidden):
        raise refuse("give the module a tuple `hidden` of names of its parts, each once, in order")
    if absent := [part for part in hidden if part not in layers or not part]:
        raise refuse(f"hidden names {absent[0]!r}, which is no part: see named_modules()")
    if not any(product(layers[part]) for part in hidden):
        raise refuse("hidden must name a Linear or Conv2d, as the last layer, with what it reads")
    weights = {part: layer for part, layer in layers.items() if product(layer)}
    x, state = torch.linspace(0, 1, 3 * math.prod(shape)).view(3, *shape), torch.get_rng_state()
    try:
        with _shown(weights | {part: layers[part] for part in hidden}) as call:
            logits = module.train()(x)
    except Exception as error:  # whatever a module may raise
        raise refuse(f"it does not take images {tuple(x.shape)}: {first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (len(x), classes):
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise refuse(f"its outputs must be {(len(x), classes)}, samples by classes, not {shown}")
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        raise refuse("it draws random numbers when called, as dropout does, which no seed repeats")
    called = [part for part in call.names if part in hidden]
    for part in hidden:
        if called.count(part) != 1:
            raise refuse(f"{part} must be called once for a batch, not {called.count(part)} times")
        values = call.inputs[part] if product(layers[part]) else call.outputs[part]
        if not isinstance(values, Tensor) or values.ndim < 2 or len(values) != len(x):
            raise refuse(f"{part} must have features with the samples first: a tensor (N, …)")
        if product(layers[part]) and (problem := _unreadable(module, layers[part], part)):
            raise refuse(f"{part} {problem}")
    if called != list(hidden):
        raise refuse(f"hidden must be in the order of the call: {', '.join(called)}")
    first = next(part for part in call.names if part in weights)
    if problem := _unreadable(module, layers[first], first):
        raise refuse(f"{first}, which reads the images, {problem}")
    return first


def _unreadable(module: nn.Module, layer: nn.Module, part: str) -> str:
    """Why a layer's weight cannot be read as a matrix of one replica; empty where it can."""
    if f"{part}.weight" not in dict(module.named_parameters()):
        return "must have a weight of its own, neither shared nor parametrised"
    if getattr(layer, "groups", 1) > 1 or getattr(layer, "padding_mode", "zeros") != "zeros":
        return "must be a convolution without groups, padded by zeros"
    return ""
