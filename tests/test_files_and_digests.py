"""Files are there completely or not at all, and digests tell values apart."""

from pathlib import Path

import numpy as np
import pytest

from keras_trn.digests import digest_of_arrays
from keras_trn.digests import digest_of_json
from keras_trn.digests import to_json
from keras_trn.files import unfinished_file
from keras_trn.files import write_text


def test_file_is_replaced_completely_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), unfinished_file(path) as temporary:
        assert temporary.endswith(".json")
        Path(temporary).write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    write_text(path, "after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_digests_tell_values_apart_but_not_their_python_types():
    assert digest_of_json({"a": np.int64(1), "b": [0.5]}) == digest_of_json({"b": [0.5], "a": 1})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 2})
    image = np.arange(6.0).reshape(2, 3)
    assert digest_of_arrays(image) == digest_of_arrays(image.copy(order="F"))
    assert digest_of_arrays(image) != digest_of_arrays(image[::-1])
    assert to_json([np.float32(0.5), np.arange(2)]) == "[0.5, [0, 1]]"
    with pytest.raises(TypeError, match="of type object"):
        to_json(object())
