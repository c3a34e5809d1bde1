"""The restricted unpickler: data in known formats load; anything that could execute code is rejected and not executed."""

import builtins
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.datasets.errors import DataError
from proxytune.datasets.safe_pickle import as_array, load


class Payload:
    """Pickles as a call of an arbitrary function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dump(value, protocol=pickle.DEFAULT_PROTOCOL) -> io.BytesIO:
    return io.BytesIO(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "<i8", "f4"])
def test_arrays_of_every_protocol_load(protocol, dtype):
    array = np.arange(24, dtype=dtype).reshape(4, 6)
    for given_array in (array, np.asfortranarray(array)):
        loaded = load(dump({"data": given_array}, protocol), "f")["data"]
        assert np.array_equal(as_array(loaded), array)
        assert as_array(loaded).dtype == array.dtype


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_scalars_and_plain_values_load(protocol):
    value = [{"label": np.int64(7), "name": "é", "raw": b"\x00\xff", "ids": [1, 2], "f": np.float32(0.5)}]
    assert load(dump(value, protocol), "f") == value


def test_python_2_strings_load_as_bytes():
    assert load(io.BytesIO(b"\x80\x02U\x04dataq\x00."), "f") == b"data"


@pytest.mark.parametrize(
    "payload",
    [
        Payload(os.system, "touch hacked"),
        Payload(builtins.eval, "open('hacked', 'w')"),
        Payload(getattr, np.ndarray, "tofile"),
        Payload(np.load, "hacked"),
        Payload(np.frombuffer, b"12"),
        Payload(open, "hacked", "w"),
    ],
    ids=["os.system", "eval", "getattr", "numpy.load", "numpy.frombuffer", "open"],
)
def test_code_is_rejected_and_not_executed(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps([{"input_ids_0": payload, "label": 0}])
    with pytest.raises(DataError, match=r"^evil\.pickle: it requires .* refused, nothing was executed$"):
        load(io.BytesIO(content), "evil.pickle")
    assert list(tmp_path.iterdir()) == []


def test_dotted_names_are_rejected():
    """Protocol 4 can refer to numpy.ndarray.tofile by a dotted name."""
    content = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(DataError, match=r"ndarray\.tofile"):
        load(io.BytesIO(content), "f")


def test_object_and_structured_arrays_are_rejected():
    for array in (np.array([{}], object), np.zeros(2, [("a", "i4")]), np.array(["x"])):
        with pytest.raises(DataError, match="plain numbers"):
            load(dump(array), "f")


def test_array_with_wrong_size_is_rejected():
    content = pickle.dumps(np.zeros(8, np.uint8), 2).replace(b"K\x08\x85", b"K\x7f\x85")
    with pytest.raises(DataError, match="8 bytes"):
        load(io.BytesIO(content), "f")


@given(st.data())
def test_damaged_pickle_loads_or_raises_data_error(data):
    content = bytearray(pickle.dumps([{"ids": np.arange(9), "label": np.int64(3)}]))
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] = data.draw(st.integers(0, 255))
    else:
        content = content[:position]
    message = "f: loaded"  # some damage is not detectable: a flipped bit of a number gives another number
    try:
        load(io.BytesIO(bytes(content)), "f")
    except DataError as error:
        message = str(error)
    assert message.startswith("f: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x02K\x01r\x00\x00\x00\x04.", id="memo index far beyond its end"),
        pytest.param(b"\x80\x05\x96\x00\x00\x00\x40\x00\x00\x00\x00x.", id="bytearray longer than the file"),
    ],
)
def test_small_pickle_cannot_allocate_large_memory(content):
    script = (
        "import io, resource, sys\n"
        "from proxytune.datasets.errors import DataError\n"
        "from proxytune.datasets.safe_pickle import load\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    load(io.BytesIO(bytes.fromhex(sys.argv[1])), 'f')\n"
        "except DataError:\n"
        "    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, content.hex()], capture_output=True, text=True, check=True
    )
    # KiB. The C unpickler allocates a gigabyte for the first, the Python unpickler for the second.
    assert int(done.stdout) < 50_000
