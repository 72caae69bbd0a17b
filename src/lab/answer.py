"""A command line that asks for help, or is wrong, is answered before torch is imported.

What a program's flags are stands in its Config, but torch and what is built on it take seconds to
import. So the program is first imported with stand-ins in place of such packages, which takes a
tenth of a second; its command line is parsed, and what was so imported is dropped. On a stand-in
anything can be named, called, subclassed or annotated, which is what modules do when they are
imported, but it has no value: whoever asks it for a truth, a number or a text fails, and so does
this first pass. Then, and where there is nothing to answer, the program goes on as if nothing had
been, and parses its command line itself. So no answer rests on a stand-in.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

SOURCE = Path(__file__).resolve().parents[1]
SLOW = {"datasets", "huggingface_hub", "matplotlib", "nbclient", "nbformat", "numpy", "pandas"}
SLOW |= {"safetensors", "scipy", "sklearn", "tokenizers", "torch", "torchvision", "tqdm"}
SLOW |= {"transformers"}


def answer(path: Path) -> None:
    """Exit where a program's command line asks for help or is wrong; else change nothing.

    path: of the program; one that is not in this folder's parent is left alone.
    """
    if not path.is_relative_to(SOURCE):
        return
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    with suppress(Exception), _stand_ins():
        program, cli = import_module(name), import_module("lab.cli")
        quick = getattr(program, "QUICK", {})
        cli.run(lambda: cli.parse(program.Config, quick, program.__doc__))


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Inside, slow packages are not what they seem; what is imported on top of them is dropped."""
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if name.partition(".")[0] in SLOW or (file and Path(file).is_relative_to(SOURCE)):
                parent, _, child = name.rpartition(".")
                if parent in sys.modules:  # `from parent import child` would still find it
                    vars(sys.modules[parent]).pop(child, None)
                del sys.modules[name]


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname.partition(".")[0] in SLOW:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _stand_in(name: str) -> Any:
    if name.startswith("__"):  # what the interpreter looks for, and does without
        raise AttributeError(name)
    return _StandIn(name, (), {})


class _Package(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _stand_in(name)


class _StandIn(type):
    """A class, for it must do as a base and in annotations."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)

    def __call__(cls, *_: Any, **__: Any) -> Any:
        return _stand_in("called")

    def __getitem__(cls, _: Any) -> Any:
        return _stand_in("item")

    def __bool__(cls) -> NoReturn:
        raise TypeError("a stand-in has no value")

    __repr__ = __str__ = __format__ = __iter__ = __bool__  # type: ignore[assignment]
