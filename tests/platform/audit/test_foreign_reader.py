"""An independent implementation of C2SP tlog-tiles reads our log and agrees with every hash."""

from __future__ import annotations

import pytest
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey

from tritium_platform.audit.merkle import leaf_hash
from tritium_platform.audit.model import leaf_data


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
def test_tlog_scales_accepts_our_log(size, open_log, signer, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(n) for n in range(size // 2)])
    log.append([intent(n) for n in range(size // 2, size)])
    reader = TilesReader(LocalBackend(tmp_path))
    checkpoint = reader.get_checkpoint()
    assert (checkpoint.origin, checkpoint.size) == (signer.name, size)
    vkey = Vkey.from_string(signer.verifier.vkey)
    vkey.get_verifier().verify_note(checkpoint.signatures[0], checkpoint)
    assert reader.calculate_root_hash() == checkpoint.root_hash == log.checkpoint.root
    for index in {0, size // 2, size - 1}:
        assert reader.get_entry(index) == leaf_data(log.read_entry(index))
        proof = reader.get_inclusion_proof(index, size)
        assert proof.node_hashes == log.inclusion_proof(index)
        proof.check(leaf_hash(reader.get_entry(index)), checkpoint.root_hash)
    if size > 1:
        assert reader.get_consistency_proof(size // 2, size).node_hashes == log.consistency_proof(size // 2)
