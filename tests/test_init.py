import subprocess
import sys

import headstart


def test_dir_lists_the_public_names_without_loading_them():
    assert set(headstart.__all__) <= set(dir(headstart))
    code = "import sys, headstart; dir(headstart); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_public_name_is_there():
    assert all(callable(getattr(headstart, name)) for name in headstart.__all__)
