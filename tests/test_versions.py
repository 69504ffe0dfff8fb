"""The declared lower bounds, the pins that are made of them, and what `ssmlab doctor` says of what is installed."""

import importlib.util
import pkgutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from forked import python
from ssmlab.checkpoints.folder import save_model
from ssmlab.cli import tested
from ssmlab.models import create_model

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def lowest():
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pins_are_the_lower_bounds(lowest):
    pins = lowest.pins(PROJECT)
    assert len(pins) == len(set(pins)) and "numpy==1.26" in pins and "pytest==8" in pins and "monai==1.4" in pins
    assert not [pin for pin in pins if pin.startswith(("ruff", "mypy", "ssmlab"))]
    of = {"name": "p", "dependencies": ["a>=1", "b==2.*"], "optional-dependencies": {"x": ["p[y]", "c-d>=3.1"]}}
    assert lowest.pins(of) == ["a==1", "c-d==3.1"]
    with pytest.raises(SystemExit, match="'e' has no lower bound"):
        lowest.pins(of | {"dependencies": ["e"]})


def test_every_dependency_has_a_newest_tested_version():
    extras = PROJECT["optional-dependencies"]
    of_extras = [text for name in tested._FOR_USERS for text in extras[name] if not text.startswith("ssmlab[")]
    declared = [Requirement(text) for text in (*PROJECT["dependencies"], *of_extras)]
    assert {needed.name for needed in declared} == tested.NEWEST.keys() - {"python"}
    for needed in declared:
        assert needed.specifier.contains(tested.NEWEST[needed.name])


def test_python_is_tested_as_far_as_the_classifiers_say():
    said = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert f">={said[0]}" == PROJECT["requires-python"] and said[-1] == tested.NEWEST["python"]


def test_what_is_installed_is_compared_with_what_was_tested(monkeypatch):
    metadata = ["torch>=2.8", "numpy>=1.26; python_version > '3'", 'monai>=1.4; extra == "medical"',
                'pytest>=8; extra == "test"', "rich>=13.8"]  # fmt: skip
    here = {"torch": "2.14.1+cpu", "numpy": "1.25.3", "monai": None, "rich": "99.0"}

    def version(name):
        if here.get(name) is None:
            raise tested.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(tested, "requires", lambda name: metadata)
    monkeypatch.setattr(tested, "version", version)
    newest = {"python": "3.10", "torch": "2.14.1", "numpy": "2.4", "monai": "1.6", "rich": "15.0"}
    monkeypatch.setattr(tested, "NEWEST", newest)
    rows = {row.name: row for row in tested.tested()}
    assert rows["torch"] == ("torch", "2.8", "2.14.1", "2.14.1+cpu", "")
    assert rows["numpy"].remark == "older than required; pip install -U 'numpy>=1.26'"
    assert rows["monai"] == ("monai", "1.4", "1.6", None, "not installed")
    assert rows["rich"].remark == rows["python"].remark == "newer than tested"


def test_an_installation_without_requirements_has_no_lowest_versions(monkeypatch):
    monkeypatch.setattr(tested, "requires", lambda name: None)
    monkeypatch.setattr(tested, "metadata", lambda name: {})
    assert {row.lowest for row in tested.tested()} == {None}

    def missing(name):
        raise tested.PackageNotFoundError(name)

    monkeypatch.setattr(tested, "metadata", missing)  # sources without an installation
    assert {row.lowest for row in tested.tested()} == {None}
    assert all(row.remark in ("", "newer than tested", "not installed") for row in tested.tested())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_test", "timm/test_vit"])
def test_a_model_opens_where_nothing_but_torch_was_imported(name, tmp_path):
    save_model(create_model(name, num_classes=2), tmp_path / "model", {"image_size": 32})
    for code in ("from ssmlab.checkpoints.folder import load_model; load_model('model')",
                 f"from ssmlab.cli.main import main; main(['models', '{name}'])"):  # fmt: skip
        done = python(code, folder=tmp_path)
        assert done.returncode == 0, done.stderr + done.stdout


# What other packages do not promise to keep. A name that goes leaves an override that is never called, or a crash.
PRIVATE = (
    "transformers:Trainer._get_output_dir", "transformers:Trainer._save_checkpoint", "transformers:Trainer._save",
    "transformers:Trainer._determine_best_metric", "transformers:Trainer.get_decay_parameter_names",
    "peft.tuners.tuners_utils:_check_lora_target_modules_mamba", "peft.tuners.tuners_utils:cast_adapter_dtype",
    "peft.tuners.lora:LoraModel._check_target_module_compatiblity", "peft.tuners.osf.layer:OSFLayer",
    "timm.models._features:FeatureGetterNet", "timm.models:adapt_input_conv",
    "torch:_C._are_functorch_transforms_active", "torch:_C._len_torch_dispatch_stack", "torch:_C._is_tracing",
    "torch:_C._get_mkldnn_enabled", "torch:_foreach_norm", "torch.autograd.forward_ad:_current_level",
    "torch.utils._python_dispatch:TorchDispatchMode", "torch.utils._pytree:tree_map",
    "torch.nn.modules.batchnorm:_BatchNorm",
    "sacrebleu.metrics:BLEU._extract_corpus_statistics", "sacrebleu.metrics:CHRF._aggregate_and_compute",
)  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE)
def test_private_names_of_others_are_there(name):
    assert pkgutil.resolve_name(name) is not None
