"""Images that are being looked at: in memory alone, of each user a few, of all together no more than a limit."""

import secrets
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

BYTES = 512 << 20
"""Of all that is kept."""
PER_SESSION = 8
"""Images that one session has; the page asks about one or two at a time."""


class Sized(Protocol):
    """Something that knows its size in memory."""

    @property
    def num_bytes(self) -> int:
        """Bytes that it holds."""


T = TypeVar("T", bound=Sized)


class Store(Generic[T]):
    """What is kept of images, by session and a name that nobody can guess; what was not asked for longest goes first.

    It belongs to one thread.

    Args:
        num_bytes: Most that is kept; one image is kept whatever its size.
        per_session: Most images of a session.
    """

    def __init__(self, num_bytes: int = BYTES, per_session: int = PER_SESSION) -> None:
        self.limit = num_bytes
        self.per_session = per_session
        self.num_bytes = 0
        self._kept: OrderedDict[tuple[str, str], T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, session: str, image: T) -> str:
        """Keeps an image, and makes room for it.

        Returns:
            Its name.
        """
        own = [key for key in self._kept if key[0] == session]
        for key in own[: max(0, len(own) - self.per_session + 1)]:
            self._drop(key)
        name = secrets.token_urlsafe(16)
        self._kept[session, name] = image
        self.num_bytes += image.num_bytes
        while self.num_bytes > self.limit and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))
        return name

    def get(self, session: str, name: str) -> T | None:
        """An image of a session; None if the session has none of that name, perhaps no longer."""
        image = self._kept.get((session, name))
        if image is not None:
            self._kept.move_to_end((session, name))
        return image

    def remove(self, session: str, name: str) -> bool:
        """Forgets an image; False if there is none."""
        if (session, name) not in self._kept:
            return False
        self._drop((session, name))
        return True

    def _drop(self, key: tuple[str, str]) -> None:
        self.num_bytes -= self._kept.pop(key).num_bytes
