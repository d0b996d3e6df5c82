"""Models from the Hugging Face hub, through its own client and cache; weights as safetensors only."""

from __future__ import annotations

import re
from pathlib import Path

from tritium.errors import MissingExtraError, PlatformError, Recovery, ValidationError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "1_Pooling/config.json"]


def is_hub_name(text: str) -> bool:
    """Return whether the text has the form organisation/model."""
    return (
        NAME.fullmatch(text) is not None and ".." not in text and not text.endswith((".json", ".safetensors"))
    )


def download(name: str) -> Path:
    """Download a model into the hub's cache, or find it there, and return its directory.

    Raises:
        MissingExtraError: huggingface-hub is not installed.
        ValidationError: there is no such model, or it is private.
        PlatformError: the hub cannot be reached.
    """
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
        from huggingface_hub import errors  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError(extra="hub", feature=f"Downloading {name}") from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ValidationError(
            f"The hub has no model {name}, or it is private and no login was given."
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise PlatformError(
            f"The hub could not be reached for {name}, and it is not in the local cache. Try again later, "
            "or give the path of a local copy.",
            recovery=Recovery.RETRY,
        ) from error
