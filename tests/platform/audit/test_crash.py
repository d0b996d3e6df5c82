"""Cuts the power at every operation on the disk, loses what was not synced, and opens the log again."""

from __future__ import annotations

import shutil

import pytest

from tritium_platform.audit.files import DurableFiles
from tritium_platform.audit.verify import verify_log

OLD = 254
BATCH = (
    5  # crosses the border of a tile: a full tile, partial ones of two levels, and partial ones to be dropped
)


class PowerCut(BaseException):
    """The machine is off; nothing above may catch this as an error."""


class CuttableFiles(DurableFiles):
    """Cuts the power before operation `cut_at`; if `loses`, then what no fsync has made durable is gone."""

    def __init__(self, root, *, cut_at: int | None, loses: bool) -> None:
        super().__init__(root)
        self.operations = 0
        self._cut_at = cut_at
        self._loses = loses
        self._volatile: list = []  # (directory, undo) of what only the directory's fsync makes durable

    def _step(self) -> None:
        if self.operations == self._cut_at:
            if self._loses:
                for _, undo in reversed(self._volatile):
                    undo()
            raise PowerCut
        self.operations += 1

    def make_directory(self, directory) -> None:
        self._step()
        super().make_directory(directory)
        self._volatile.append((directory.parent, lambda: shutil.rmtree(directory, ignore_errors=True)))

    def write_synced(self, path, content) -> None:
        if self.operations == self._cut_at and not self._loses:
            path.write_bytes(content[: len(content) // 2])  # torn
        self._step()
        super().write_synced(path, content)

    def rename(self, source, target) -> None:
        self._step()
        before = target.read_bytes() if target.exists() else None
        super().rename(source, target)

        def undo() -> None:
            if before is not None:
                target.write_bytes(before)
            else:
                target.unlink(missing_ok=True)

        self._volatile.append((target.parent, undo))

    def sync_directory(self, directory) -> None:
        self._step()
        super().sync_directory(directory)
        self._volatile = [item for item in self._volatile if item[0] != directory]

    def unlink(self, path) -> None:
        self._step()
        super().unlink(path)

    def remove_directory(self, directory) -> None:
        self._step()
        super().remove_directory(directory)


def count_operations(directory, open_log, intents) -> int:
    files = CuttableFiles(directory, cut_at=None, loses=False)
    log = open_log(directory, files=files)
    log.append(intents)
    log.close()
    return files.operations


@pytest.mark.parametrize("loses", [False, True], ids=["torn", "unsynced-lost"])
def test_a_power_cut_at_any_operation_leaves_a_log_that_tells_the_truth(
    loses, open_log, signer, intent, tmp_path
):
    original = tmp_path / "original"
    log = open_log(original)
    log.append([intent(n) for n in range(OLD)])
    log.close()
    saved = (original / "checkpoint").read_bytes()
    batch = [intent(OLD + n) for n in range(BATCH)]
    shutil.copytree(original, tmp_path / "counted")
    operations = count_operations(tmp_path / "counted", open_log, batch)
    assert operations > 20
    vkey = signer.verifier.vkey
    completed = 0
    for cut_at in range(operations):
        directory = tmp_path / f"cut-{cut_at}"
        shutil.copytree(original, directory)
        log = open_log(directory, files=CuttableFiles(directory, cut_at=cut_at, loses=loses))
        with pytest.raises(PowerCut):
            log.append(batch)
        log.close()
        # What an auditor sees before anybody repairs anything is true already.
        report = verify_log(directory, vkey, saved_checkpoint=saved)
        assert report.problems == (), cut_at
        assert report.size in {OLD, OLD + BATCH}
        log = open_log(directory)
        assert log.checkpoint.size in {OLD, OLD + BATCH}, cut_at
        completed += log.checkpoint.size == OLD + BATCH
        # Other entries than the lost ones: orphaned tiles must not shine through.
        for numbers in ([0], [1], [2, 3, 4, 5, 6, 7, 8]):
            log.append([intent(5000 + n) for n in numbers])
        log.close()
        report = verify_log(directory, vkey, saved_checkpoint=saved)
        assert report.problems == (), cut_at
        shutil.rmtree(directory)
    assert 0 < completed < operations


def test_a_power_cut_while_the_first_checkpoint_is_made_is_survived(open_log, signer, intent, tmp_path):
    operations = count_operations(tmp_path / "counted", open_log, [intent(0)])
    for cut_at in range(operations):
        directory = tmp_path / f"cut-{cut_at}"
        files = CuttableFiles(directory, cut_at=cut_at, loses=True)
        try:
            log = open_log(directory, files=files)
        except PowerCut:
            pass
        else:
            with pytest.raises(PowerCut):
                log.append([intent(0)])
            log.close()
        log = open_log(directory)
        log.append([intent(1)])
        log.close()
        assert verify_log(directory, signer.verifier.vkey).problems == ()
