"""The registry files parts under names and finds them again."""

import sys

import pytest

from video_llama.common.errors import ConfigError, UnknownName
from video_llama.common.registry import Registry, registry


def test_a_registered_part_is_found_under_its_name():
    mine = Registry()

    @mine.register_bridge("squeeze")
    class Squeeze:
        pass

    assert mine.get_bridge_class("squeeze") is Squeeze


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'qformer'") as caught:
        registry.get_bridge_class("qfromer")
    assert "projection" in str(caught.value)


def test_a_name_taken_twice_names_both_places():
    mine = Registry()
    mine.register_encoder("eye")(type("First", (), {}))
    with pytest.raises(ConfigError, match="registered twice: .*First.*Second"):
        mine.register_encoder("eye")(type("Second", (), {}))


def test_registering_the_same_part_again_is_allowed():
    mine = Registry()
    part = type("Same", (), {})
    mine.register_encoder("eye")(part)
    mine.register_encoder("eye")(part)
    assert mine.get_encoder_class("eye") is part


def test_importing_the_package_imports_no_torch(tmp_path):
    import subprocess

    code = "import sys, video_llama; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
