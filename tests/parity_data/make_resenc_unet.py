"""Makes the golden cases of nnU-Net's residual-encoder U-Net from dynamic-network-architectures 0.4.4 (Apache-2.0).

pip install dynamic-network-architectures==0.4.4; python tests/parity_data/make_resenc_unet.py
"""

import json
from pathlib import Path

import fill
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from safetensors.torch import save_file
from torch import nn

ROOT = Path(__file__).parent
FAMILY, TIMES = "resenc_unet", 20  # the tolerance is so many times the original's own error in float32
CASES = {
    "2d_deep_supervision": {
        "patch_size": [32, 32],
        "conv_kernel_sizes": [[3, 3]] * 5,
        "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]],
        "UNet_base_num_features": 4,
        "unet_max_num_features": 16,
        "num_input_channels": 2,
        "num_segmentation_heads": 3,
        "deep_supervision": True,
    },
    "3d_anisotropic": {
        "patch_size": [8, 16, 16],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "num_input_channels": 1,
        "num_segmentation_heads": 2,
        "deep_supervision": False,
    },
}


def build(config):
    stages, dims = len(config["conv_kernel_sizes"]), len(config["patch_size"])
    return ResidualEncoderUNet(
        input_channels=config["num_input_channels"],
        n_stages=stages,
        features_per_stage=[min(config["UNet_base_num_features"] * 2**s, config["unet_max_num_features"])
                            for s in range(stages)],
        conv_op=nn.Conv2d if dims == 2 else nn.Conv3d,
        kernel_sizes=config["conv_kernel_sizes"],
        strides=config["pool_op_kernel_sizes"],
        n_blocks_per_stage=config["n_conv_per_stage_encoder"],
        num_classes=config["num_segmentation_heads"],
        n_conv_per_stage_decoder=config["n_conv_per_stage_decoder"],
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=config["deep_supervision"],
    )  # fmt: skip


def main():
    for name, given in CASES.items():
        stages = len(given["conv_kernel_sizes"])
        config = given | {
            "n_conv_per_stage_encoder": [1, 3, 4, 6, 6, 6][:stages],
            "n_conv_per_stage_decoder": [1] * (stages - 1),
        }
        prefix = f"re.{name}/"
        model = fill.fill_module_(build(config), prefix).eval()
        shape = [1, config["num_input_channels"], *config["patch_size"]]
        spec = {"name": f"{prefix}x", "shape": shape, "scale": 1.7320508}
        x = fill.make_input(spec)
        features = ["encoder.stem", *(f"encoder.stages.{s}" for s in range(stages)),
                    *(f"decoder.stages.{s}" for s in range(stages - 1))]  # fmt: skip
        found, exact = run(model, x, features), run(model.double(), x.double(), features)
        wrong = {key: TIMES * float((found[key].double() - exact[key]).abs().max()) for key in found}
        state, seen, tied = model.float().state_dict(keep_vars=True), {}, {}
        for key, value in state.items():
            first = seen.setdefault(value.data_ptr(), key)
            if first != key:
                tied[key] = first
        manifest = f"manifests/{FAMILY}/{name}.json"
        entries = [[key, list(v.shape), str(v.dtype).removeprefix("torch."), "parameter"] for key, v in state.items()]
        write(ROOT / manifest, {"family": FAMILY, "config": config, "entries": entries, "tied": tied})
        outputs = {key: list(v.shape) for key, v in found.items() if key not in features}
        case = {
            "case": name,
            "family": FAMILY,
            "source": {"repo": "MIC-DKFZ/dynamic-network-architectures", "commit": "0.4.4",
                       "entry": "architectures/unet.py: ResidualEncoderUNet"},
            "torch": torch.__version__,
            "dtype": "float32",
            "config": config,
            "manifest": manifest,
            "fill_prefix": prefix,
            "inputs": {"x": spec},
            "outputs": outputs,
            "features": {key: list(found[key].shape) for key in features},
            "tolerance": {"outputs_atol": {key: wrong[key] for key in outputs},
                          "features_atol": {key: wrong[key] for key in features}, "rtol": 0.0},
            "file": f"{FAMILY}/{name}.safetensors",
        }  # fmt: skip
        write(ROOT / FAMILY / f"{name}.json", case)
        stored = {key: found[key] for key in outputs} | {
            f"feat.{key}.probe": fill.probe(found[key]) for key in features
        }
        save_file({key: value.float().contiguous() for key, value in stored.items()}, ROOT / case["file"])


def run(model, x, features):
    found, modules = {}, dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda m, i, out, name=name: found.update({name: out.clone()}))
        for name in features
    ]
    with torch.no_grad():
        logits = model(x)
    for handle in handles:
        handle.remove()
    logits = logits if isinstance(logits, list) else [logits]
    return {f"logits_{i}" if i else "logits": y for i, y in enumerate(logits)} | found


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
