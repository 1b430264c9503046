"""The packages of the extra `potstill[language]`: imported when they are needed, and asked for by name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from safetensors import SafetensorError


def need(package: str, purpose: str) -> ModuleType:
    """The package, or a ValueError that says how to install it.

    >>> need("json", "reading").loads("1")
    1
    >>> need("no_such_package", "reading")
    Traceback (most recent call last):
    ValueError: reading needs no_such_package, which is not installed; pip install "potstill[language]"
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise ValueError(f"{purpose} needs {package}, which cannot be imported: {error}") from error
        raise ValueError(
            f'{purpose} needs {package}, which is not installed; pip install "potstill[language]"'
        ) from None


@contextmanager
def told(name: str, hint: str = "") -> Iterator[None]:
    """What the libraries find wrong with `name`, as one ValueError of one line."""
    try:
        yield
    except pickle.UnpicklingError as error:  # what PyTorch goes on to advise is not for users
        raise ValueError(
            f"{name}: its weights are pickled Python objects, which can run any code when read, so they were not read; "
            "where you trust them, load them with the code that wrote them and call model.save_pretrained(folder)"
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{name}: its weights are damaged or cut short ({error})") from error
    except (ImportError, OSError, RuntimeError, TypeError, ValueError, KeyError, json.JSONDecodeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) if lines else type(error).__name__
        raise ValueError(f"{name}: {reason}{f'; {hint}' if hint else ''}") from error


@contextmanager
def silent() -> Iterator[None]:
    """transformers without its progress bars and its reports about missing weights, which are said here."""
    logging = need("transformers", "a language model").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
