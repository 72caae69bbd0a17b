"""What each call of a layer really multiplies, seen where torch does it.

A layer's parameter is not always the weight that its inputs meet: a parametrisation, pruning or the
layer's own forward makes another of it, and one weight may serve two layers, as that of an
embedding and a language model's output. So a call is recorded at torch's own linear functions, and
takes its weight as a leaf of its own, whose gradient is that of this call alone.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .layers import PRODUCTS, Product
from .untouched import version


@dataclass(frozen=True)
class Call:
    """One product Z = H Wᵀ + b."""

    product: Product
    inputs: Tensor  # as they were then, without a graph
    outputs: Tensor  # Z in the graph; what follows changes a copy
    weight: Tensor  # W, a leaf
    given: Tensor | None = None  # what the layer was called with, where its shape is another

    def features(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs, samples first and features last: (N, …, d) and (N, …, m)."""
        inputs = self.inputs
        if self.given is not None:  # a map that the layer itself pads, or tokens as rows
            inputs = self.given if self.product.kernel else inputs.reshape(self.given.shape)
        return self.product.samples(inputs), self.by_sample(self.outputs.detach())

    def by_sample(self, outputs: Tensor) -> Tensor:
        """What is shaped as the outputs, samples first and features last: (N, …, m)."""
        if self.given is not None and not self.product.kernel:
            outputs = outputs.reshape(*self.given.shape[:-1], -1)
        return self.product.samples(outputs)


class Listener(Protocol):
    """What is told of a layer's calls."""

    def enter(self) -> None: ...

    def keep(self, call: Call) -> None: ...

    def leave(self, is_product: bool) -> None:
        """is_product: whether the forward returns the product that it took last, and no more."""

    def refuse(self, reason: str) -> None: ...


class Recorder(TorchFunctionMode):
    """Tells the layer that is being called of every product that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[tuple[Listener, Tensor | None]] = []  # those being called, inmost last
        self.last: tuple[Tensor, Tensor, int] | None = None  # see `is_product`
        self.keeps = True

    def __torch_function__(
        self,
        function: Callable[..., Any],
        _: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function not in PRODUCTS:
            return function(*args, **kwargs)
        read, names = PRODUCTS[function]
        arguments = inspect.signature(read).bind(*args, **kwargs).arguments
        inputs, weight = (arguments[name] for name in names)
        layer, given = self.layers[-1]
        if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
            layer.refuse(f"its weight is a {type(weight).__name__} of {weight.dtype}")
            return function(*args, **kwargs)
        leaf = _normal(weight.detach()).requires_grad_()
        replaced = {id(weight): leaf, id(inputs): _normal(inputs)}
        outputs = function(
            *(replaced.get(id(value), value) for value in args),
            **{name: replaced.get(id(value), value) for name, value in kwargs.items()},
        )
        if self.keeps:
            product = read(*args, **kwargs)
            as_then = inputs.detach().clone()
            layer.keep(Call(product, as_then, outputs, leaf, _given(product, inputs, given)))
        copy = outputs.clone()
        self.last = outputs.detach(), copy, version(copy)
        return copy

    def is_product(self, returned: Any) -> bool:
        """Whether what the inmost layer returns is the product that it took last, in any shape."""
        if self.last is None:
            return True
        outputs, copy, as_made = self.last
        if not isinstance(returned, Tensor) or returned.numel() != outputs.numel():
            return False
        if returned.data_ptr() == copy.data_ptr() and as_made >= 0 and version(copy) == as_made:
            return True  # without a look at the numbers
        numbers = (t.detach().flatten().to(returned.dtype) for t in (returned, outputs))
        return torch.equal(*(t.nan_to_num() for t in numbers))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls are carried out in the same way, as activation checkpointing asks, but not kept."""
        self.keeps = False
        try:
            yield
        finally:
            self.keeps = True

    @contextmanager
    def inside(self, layer: Listener, given: Tensor | None) -> Iterator[None]:
        """While a layer's forward runs."""
        layer.enter()
        self.layers.append((layer, given))
        outer, self.last = self.last, None
        try:
            with self if len(self.layers) == 1 else nullcontext():
                yield
        finally:
            self.layers.pop()
            self.last = outer


def _normal(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def _given(product: Product, inputs: Tensor, given: Tensor | None) -> Tensor | None:
    """See `Call`."""
    if given is None or given.shape == inputs.shape or given.ndim < 2:
        return None
    if product.kernel:
        same = given.ndim == inputs.ndim and given.shape[:2] == inputs.shape[:2]
        return given.detach().clone() if same else None
    same = given.shape[-1] == inputs.shape[-1] and given.numel() == inputs.numel()
    return given.detach() if same else None


@contextmanager
def recorded(layers: Mapping[nn.Module, Listener]) -> Iterator[Recorder]:
    """Have every call of these modules recorded."""
    recorder = Recorder()
    with ExitStack() as stack:
        for module, layer in layers.items():
            stack.enter_context(_recorded(module, layer, recorder))
        yield recorder


@contextmanager
def _recorded(module: nn.Module, layer: Listener, recorder: Recorder) -> Iterator[None]:
    own = vars(module).get("forward")  # as accelerate sets it
    forward = module.forward

    def record(*args: Any, **kwargs: Any) -> Any:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with recorder.inside(layer, next(tensors, None)):
            returned = forward(*args, **kwargs)
            layer.leave(recorder.is_product(returned))
        return returned

    module.forward = record
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
