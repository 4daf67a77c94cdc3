"""Callbacks for `fit`."""

import os
import shutil
from pathlib import Path
from typing import Any

import keras


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Backs up training after each epoch, and survives being killed at any moment.

    Keras' callback of this name overwrites its files. A process that is killed while it writes
    leaves weights that cannot be loaded, or weights and an epoch that do not belong together.
    This one renames each complete backup, and continues from the last. At most the unfinished
    epoch is lost.

    Args:
        backup_dir: Folder of the backup, on a local file system. Take one for each training.
        delete_checkpoint: Whether to delete the backup when training ends.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        protected.compile("adam", attack=keras_trn.attacks.FastGradientMethod(epsilon=0.1))
        backup = keras_trn.callbacks.BackupAndRestore("backup")
        protected.fit(images, labels, epochs=2, callbacks=[backup])
        ```
    """

    def __init__(self, backup_dir: str | os.PathLike, delete_checkpoint: bool = True) -> None:
        self.folder = Path(backup_dir)
        self._unfinished = self.folder / "unfinished"
        super().__init__(str(self._unfinished), delete_checkpoint=delete_checkpoint)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Continues from the last complete backup, if there is one."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        if complete := self._complete():
            shutil.copytree(complete[-1], self._unfinished)
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Backs up the weights and the number of epochs."""
        super().on_epoch_end(epoch, logs)
        before = self._complete()
        self._unfinished.rename(self.folder / f"complete-{epoch + 1:06d}")
        for folder in before:
            shutil.rmtree(folder, ignore_errors=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Deletes the backup, unless it is to be kept."""
        super().on_train_end(logs)
        if self.delete_checkpoint:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("complete-*"))
