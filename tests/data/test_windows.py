"""Windows of grey values of more than 8 bits, from the recipe to the model that reads new files."""

import io

import numpy as np
import pytest
from PIL import Image

from ssmlab.core.errors import DataError, RecipeError
from ssmlab.data import open_images
from ssmlab.data.images.decode import UnreadableImage, decode, windowed
from ssmlab.tasks.recipe import load_recipe


def png16(values):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_window_of_16_bits():
    values = np.array([[0, 1000, 1500, 2000, 4095]])
    assert decode(png16(values)).getpixel((4, 0)) == (15, 15, 15)
    found = np.asarray(decode(png16(values), (1500, 1000)))[0, :, 0]
    assert found.tolist() == [0, 0, 128, 255, 255]
    assert np.asarray(decode(png16(values), (1500, 1000))).shape == (1, 5, 3)
    assert windowed(np.array([-160.0, 40.0, 240.0]), (40, 400)).tolist() == [0, 128, 255]
    eight = io.BytesIO()
    Image.fromarray(np.full((2, 2), 77, np.uint8)).save(eight, "PNG")
    assert decode(eight.getvalue(), (1500, 1000)).getpixel((0, 0)) == (77, 77, 77), "8 bits have no window"
    assert decode(_floats(), (0.5, 1.0)).getpixel((0, 0)) == (64, 64, 64)
    with pytest.raises(UnreadableImage, match="or give data.window"):
        decode(_floats())


def _floats():
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), 0.25, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def test_a_data_set_with_one(tmp_path):
    for label, value in (("a", 1200), ("b", 1800)):
        (tmp_path / label).mkdir()
        for i in range(10):
            (tmp_path / label / f"{i}.png").write_bytes(png16(np.full((9, 9), value + i)))
    data = open_images(tmp_path, window=(1500, 1000))
    i = data.train.ids.index(next(id_ for id_ in data.train.ids if id_.startswith("b")))
    assert data.train.image(i).getpixel((0, 0))[0] > 200
    with pytest.raises(DataError, match=r"data\.window is for files"):
        open_images("digits", window=(1500, 1000))
    with pytest.raises(RecipeError, match="with a width above 0"):
        load_recipe("classification/own_folder", ["data.window=[40,0]"], smoke=True)
