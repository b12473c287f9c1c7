"""Names for parts, in the manner of LAVIS: a decorator registers, a getter looks up.

    @registry.register_encoder("my_encoder")
    class MyEncoder(nn.Module): ...

    registry.get_encoder_class("my_encoder")

A kind's folder is imported on its first look-up, so importing this module costs nothing and
nobody keeps a list of imports. Parts that live elsewhere register when the run file's
`imports: [my_lab.my_encoder]` imports their module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from video_llama.common.errors import ConfigError, UnknownName

T = TypeVar("T")

FOLDERS = {
    "processor": "video_llama.processors",
    "encoder": "video_llama.models.encoders",
    "bridge": "video_llama.models.bridges",
    "decoder": "video_llama.models.decoders",
    "template": "video_llama.conversation.templates",
    "dataset": "video_llama.datasets",
    "task": "video_llama.tasks",
    "runner": "video_llama.runners",
    "lr_scheduler": "video_llama.runners.optim",
    "model": "video_llama.models.video_llm",
    "release": "video_llama.models.released",
    "released_folder": "video_llama.models.released",
    "fidelity": "video_llama.models.released",
    "directory_fidelity": "video_llama.models.released",
    "directory_export": "video_llama.models.released",
    "published_config": "video_llama.models.released",
}
"""Where the parts of each kind live: a package (all its modules are imported) or a module."""

PUBLISHED_NAMES = {
    "dataset": {"webvid_instruct": "video_instruct"},
    "task": {"image_text_pretrain": "video_text_pretrain"},
}
"""Names of Video-LLaMA's own registry for parts that are called otherwise here."""


class Registry:
    """Holds the named parts of every kind."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, Any]] = {kind: {} for kind in FOLDERS}
        self._discovered: set[str] = set()

    def register(self, kind: str, name: str) -> Callable[[T], T]:
        """Return a decorator that files its target under `name`.

        Raises:
            ConfigError: the name is taken; the text names both places.
        """

        def decorate(part: T) -> T:
            known = self._parts[kind].get(name)
            if known is not None and _home(known) != _home(part):
                raise ConfigError(
                    f"{kind} '{name}' is registered twice: in {_home(known)} and in "
                    f"{_home(part)}; rename one of them"
                )
            self._parts[kind][name] = part
            return part

        return decorate

    def get(self, kind: str, name: str) -> Any:  # noqa: ANN401 - the kind decides the type
        """Return the part registered under `name`.

        Raises:
            UnknownName: nobody registered it; the text lists the known names.
        """
        self._discover(kind)
        ours = name
        if name not in self._parts[kind]:
            ours = PUBLISHED_NAMES.get(kind, {}).get(name, name)
        if ours not in self._parts[kind]:
            raise UnknownName(unknown_name(name, self._parts[kind], what=kind))
        return self._parts[kind][ours]

    def knows(self, kind: str, name: str) -> bool:
        """Tell whether `get` would find a name, a published one included."""
        return name in self.names(kind) or name in PUBLISHED_NAMES.get(kind, {})

    def names(self, kind: str) -> list[str]:
        """Return the known names of a kind, sorted."""
        self._discover(kind)
        return sorted(self._parts[kind])

    def _discover(self, kind: str) -> None:
        """Import a kind's folder once, so that its parts register themselves."""
        if kind in self._discovered:
            return
        # Marked first: a part's module may itself look something up while it is imported.
        self._discovered.add(kind)
        package = importlib.import_module(FOLDERS[kind])
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{package.__name__}.{module.name}")

    def register_encoder(self, name: str) -> Callable[[T], T]:
        """Register an encoder class (frozen or trained network that sees or hears)."""
        return self.register("encoder", name)

    def register_bridge(self, name: str) -> Callable[[T], T]:
        """Register a bridge stage class."""
        return self.register("bridge", name)

    def register_decoder(self, name: str) -> Callable[[T], T]:
        """Register a decoder class."""
        return self.register("decoder", name)

    def register_template(self, name: str) -> Callable[[T], T]:
        """Register a conversation template."""
        return self.register("template", name)

    def register_dataset(self, name: str) -> Callable[[T], T]:
        """Register a data set reader."""
        return self.register("dataset", name)

    def register_task(self, name: str) -> Callable[[T], T]:
        """Register a task."""
        return self.register("task", name)

    def register_runner(self, name: str) -> Callable[[T], T]:
        """Register a runner."""
        return self.register("runner", name)

    def register_lr_scheduler(self, name: str) -> Callable[[T], T]:
        """Register a learning rate schedule."""
        return self.register("lr_scheduler", name)

    def register_model(self, name: str) -> Callable[[T], T]:
        """Register the model class of an arch."""
        return self.register("model", name)

    def register_release(self, name: str) -> Callable[[T], T]:
        """Register where the tensors of an arch's published files go."""
        return self.register("release", name)

    def register_processor(self, name: str) -> Callable[[T], T]:
        """Register a processor: a callable with LAVIS's name for it."""
        return self.register("processor", name)

    def get_encoder_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the encoder class registered under `name`."""
        return self.get("encoder", name)

    def get_bridge_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the bridge stage class registered under `name`."""
        return self.get("bridge", name)

    def get_decoder_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the decoder class registered under `name`."""
        return self.get("decoder", name)

    def get_template(self, name: str) -> Any:  # noqa: ANN401
        """Return the conversation template registered under `name`."""
        return self.get("template", name)

    def get_dataset_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the data set reader registered under `name`."""
        return self.get("dataset", name)

    def get_task_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the task class registered under `name`."""
        return self.get("task", name)

    def get_runner_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the runner class registered under `name`."""
        return self.get("runner", name)

    def get_lr_scheduler_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the learning rate schedule registered under `name`."""
        return self.get("lr_scheduler", name)

    def get_model_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the model class registered under `name`."""
        return self.get("model", name)

    def get_release(self, name: str) -> Any:  # noqa: ANN401
        """Return the table of published files registered under `name`."""
        return self.get("release", name)

    def get_processor_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the processor class registered under `name`."""
        return self.get("processor", name)

    def get_builder_class(self, name: str) -> Any:  # noqa: ANN401
        """Return the reader registered under `name`; LAVIS builds data sets by builders."""
        return self.get("dataset", name)

    def list_encoders(self) -> list[str]:
        """Return the known encoder names, sorted."""
        return self.names("encoder")

    def list_bridges(self) -> list[str]:
        """Return the known bridge stage names, sorted."""
        return self.names("bridge")

    def list_decoders(self) -> list[str]:
        """Return the known decoder names, sorted."""
        return self.names("decoder")

    def list_datasets(self) -> list[str]:
        """Return the known data set reader names, sorted."""
        return self.names("dataset")

    def list_models(self) -> list[str]:
        """Return the known archs, sorted."""
        return self.names("model")

    def list_processors(self) -> list[str]:
        """Return the known processor names, sorted."""
        return self.names("processor")

    def list_tasks(self) -> list[str]:
        """Return the known task names, sorted."""
        return self.names("task")

    def list_runners(self) -> list[str]:
        """Return the known runner names, sorted."""
        return self.names("runner")

    def list_lr_schedulers(self) -> list[str]:
        """Return the known learning rate schedules, sorted."""
        return self.names("lr_scheduler")


registry = Registry()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else ""


def unknown_name(name: str, known: Iterable[str], *, what: str) -> str:
    """Say that a name is unknown, the nearest one, and all there are."""
    names = sorted(known)
    listed = ", ".join(names) or "none"
    return f"unknown {what} '{name}'{did_you_mean(name, names)} (known: {listed})"


def _home(part: object) -> str:
    """Say where a part was defined, as file and name."""
    try:
        file = inspect.getsourcefile(part)  # type: ignore[arg-type]
    except TypeError:
        file = getattr(part, "__module__", None)
    name = getattr(part, "__qualname__", None) or type(part).__qualname__
    return f"{file} ({name})"
