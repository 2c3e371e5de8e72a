import hashlib
import hmac

import pytest

from jaxcovid.data.pseudonyms import names_patient, read_key


def test_a_pseudonym_is_the_documented_code(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    pseudonyms = read_key(key)
    expected = hmac.new(bytes(range(32)), b"M\xc3\xbcller 7", hashlib.sha256).hexdigest()[:20]
    assert pseudonyms("Müller 7") == expected
    assert pseudonyms("") == ""
    assert "key=" not in repr(pseudonyms)
    key.write_bytes(bytes(32))
    assert read_key(key)("Müller 7") != expected
    assert read_key(key).fingerprint != pseudonyms.fingerprint


def test_a_key_that_is_no_secret_is_refused(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ValueError, match="has 5 bytes; a key has 16 to 65,536"):
        read_key(tmp_path / "key")
    with pytest.raises(FileNotFoundError):
        read_key(tmp_path / "none")


def test_paths_that_name_their_patient():
    assert names_patient("covid/MUELLER_1960/IM1", "Mueller_1960")
    assert not names_patient("covid/1/IM1", "1")
