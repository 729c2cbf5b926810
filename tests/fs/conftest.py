"""What these tests share with the store's."""

from tests.store.conftest import public_path, small_disk

__all__ = ["public_path", "small_disk"]
