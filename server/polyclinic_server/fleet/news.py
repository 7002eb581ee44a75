"""What wakes a coordinator: a reply arrived, or a hospital came or left."""

import threading


class News:
    """A count of what happened, for which several threads may wait."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._seen = threading.local()  # each thread waits for what is new to it

    def tell(self) -> None:
        """Wake everybody who waits."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait for news since this thread's last wait, and return whether there is any.

        Args:
            timeout_s: Longest wait, in seconds.
        """
        seen = getattr(self._seen, "count", 0)
        with self._condition:
            new = self._condition.wait_for(lambda: self._count != seen, timeout_s)
            self._seen.count = self._count
        return new
