"""What becomes of an image: what happened to it, and what whoever uses it has to know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from baker.model import Image, ImageStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEvent:
    """One line of an image's history: ``available``, ``deprecated``, ``revoked``, ``restored``,
    ``deleted``, ``labelled`` or ``unlabelled``."""

    event: str
    actor: str
    at: datetime
    reason: str | None


def list_warnings(image: Image) -> list[str]:
    """What is said to whoever uses an image."""
    warnings = []
    if image.status is ImageStatus.DEPRECATED:
        message = f": {image.status_reason}" if image.status_reason else ""
        warnings.append(f"{image.reference} is deprecated{message}")
    if image.revoked_ancestors:
        warnings.append(f"{image.reference} is built upon {', '.join(image.revoked_ancestors)}, now revoked")
    return warnings
