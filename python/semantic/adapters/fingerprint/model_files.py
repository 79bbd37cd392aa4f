"""The files that decide what a model's KV is, and their fingerprint (ADR-005).

Covered are all bytes of the config, of every weight file beside it, of a quantisation config of its
own (`hf_quant_config.json`), and of Python files that the model may be built by.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from semantic.adapters.fingerprint.contents import digests_of
from semantic.adapters.fingerprint.file_identity import FileIdentity
from semantic.adapters.fingerprint.remembered import RememberedDigests, cache_folder
from semantic.domain.errors import BlockValidationError

__all__ = ["ADAPTER_CONFIG", "MODEL_CONFIG", "ModelFiles", "fingerprint"]

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"

_QUANTISATION_CONFIG = "hf_quant_config.json"


def fingerprint(folder: str | os.PathLike[str], config_name: str) -> str:
    """The fingerprint of a model's or an adapter's folder as it is now.

    Args:
        folder: The folder, with a config and safetensors files.
        config_name: `MODEL_CONFIG` or `ADAPTER_CONFIG`.

    Raises:
        BlockValidationError: A folder without them, or files that change meanwhile.
    """
    return ModelFiles.seen(folder, config_name).fingerprint()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's files as they were seen; equal as long as none of them changes.

    Args:
        folder: The folder.
        config_name: Its config's name.
        files: What the system says of each file that counts.
    """

    folder: Path
    config_name: str
    files: tuple[tuple[Path, FileIdentity], ...]

    @classmethod
    def seen(cls, folder: str | os.PathLike[str], config_name: str) -> ModelFiles:
        """The files of a folder as they are now; nothing of the weights is read.

        Raises:
            BlockValidationError: A folder without a config or without weights.
        """
        root = Path(folder)
        config = root / config_name
        weights = sorted(root.glob("*.safetensors"))
        if not config.is_file() or not weights:
            raise BlockValidationError(
                f"{root} has no {config_name}, or no *.safetensors beside it"
            )
        try:
            beside = [*root.glob(_QUANTISATION_CONFIG), *root.glob("*.py"), *_code_of(config)]
            paths = sorted({config, *weights, *beside})
            files = tuple((path, FileIdentity.of(path.stat())) for path in paths)
        except OSError as error:
            raise BlockValidationError(f"{root} cannot be read: {error}") from error
        return cls(root, config_name, files)

    def fingerprint(self) -> str:
        """BLAKE2b-256 over name, size and SHA-256 of each file.

        Files are read where they are not remembered.

        Raises:
            BlockValidationError: The files are not those that were seen any more.
        """
        digests = digests_of(dict(self.files), RememberedDigests(cache_folder()))
        if ModelFiles.seen(self.folder, self.config_name) != self:
            raise BlockValidationError(f"the files in {self.folder} have changed meanwhile")
        whole = blake2b(digest_size=32, person=b"semantic-model-2")
        for path, identity in self.files:
            name = os.path.relpath(path, self.folder).encode()
            for part in (name, str(identity.size_bytes).encode(), digests[path].encode()):
                whole.update(f"{len(part)}:".encode() + part)
        return whole.hexdigest()


def _code_of(config: Path) -> list[Path]:
    """The file that mlx-lm builds the model by, where the config names one of its own."""
    try:
        named = json.loads(config.read_bytes()).get("model_file")
    except (ValueError, AttributeError):
        return []
    path = config.parent / named if isinstance(named, str) else config
    return [path] if path.is_file() else []
