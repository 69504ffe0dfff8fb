"""A volume of 96 x 96 x 96 goes through training and inference on the CPU within 8 GiB."""

import resource
import subprocess
import sys

import pytest

CODE = """
import torch
from ssmlab.models.segmentation.plans import Plan
from ssmlab.models import create_model
from ssmlab.tasks.shared.sliding import predict_windows

plan = Plan(
    patch_size=(96,) * 3, features=(32, 64, 128, 256, 320), kernel_sizes=((3,) * 3,) * 5,
    strides=((1,) * 3, *((2,) * 3,) * 4), n_conv_encoder=(2,) * 5, n_conv_decoder=(2,) * 4,
)
model = create_model("NAME", plan=plan, num_classes=2, in_chans=1, seed=0)
optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.99, nesterov=True)
x = torch.randn(1, 1, 96, 96, 96)
sum(y.square().mean() for y in model.train()(x)).backward()
optimizer.step()
optimizer.zero_grad()
assert predict_windows(model.eval(), x[0], plan.patch_size).shape == (2, 96, 96, 96)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 228 s for umamba_enc on one busy core
@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
def test_a_volume_of_96(name):
    subprocess.run([sys.executable, "-c", CODE.replace("NAME", name)], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # measured: 4.4 and 6.4 GiB
    assert peak < 8 * 2**30
