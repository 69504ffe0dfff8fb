"""A small vision-language model with a vocabulary of bytes, and pictures."""

import numpy as np
import torch
from PIL import Image

from ssmlab.data.text.tokenizers import ByteTokenizer
from ssmlab.models import create_model
from ssmlab.tasks.vision_language.use import Voice


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return Image.fromarray(values.repeat(8, 0).repeat(8, 1))


def small(template: str = "vicuna_v1", **options):
    torch.manual_seed(0)
    model = create_model("llava_mamba_test", template=template, **options).eval()
    model.speech = Voice(ByteTokenizer(eos=256), template)
    return model
