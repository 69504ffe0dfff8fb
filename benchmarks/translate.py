"""Translation with random weights: target tokens a second, ours next to CTranslate2 on the same Transformer.

Our models in float32 and with int8 weights; CTranslate2 runs our Transformer, converted, in both. Every translation has
the same forced length, since random weights never end. Each in a process of its own, since memory and threads of one
change the times of the next: in one process ours were slower. They take turns, so that a change of the machine's
speed meets everyone; printed are medians with their range, and the ratio to CTranslate2's int8. Before anything is
timed, both must translate the same sources alike in float32. Then every model writes 64 to 4,096 given tokens in a
process of its own: milliseconds a token, bytes of the state, growth of the process. `make bench-translate`, some
minutes on two cores.

A trained model's folder, as a run writes it, takes the place of a name: --transformer FOLDER --model FOLDER.
"""

import argparse
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ssmlab.checkpoints.files import to_upstream
from ssmlab.checkpoints.folder import load_model
from ssmlab.generation.options import BeamOptions
from ssmlab.generation.translate import translate_tokens
from ssmlab.models import create_model
from ssmlab.nn import quantize_linear_
from ssmlab.ops import _native
from ssmlab.tasks.translate.speed import LENGTHS, decoding_records

PAD, SEPARATOR, END = 0, 1, 2
# beams, sentences, tokens of each translation
SETTINGS = ((5, 32, 18), (1, 32, 18), (1, 1, 18), (5, 32, 256), (1, 1, 1024))
REFERENCE = "CTranslate2, int8"


class Ours:
    """A model of ours."""

    def __init__(self, model):
        self.model = model.eval()

    def translate(self, sources, beams: int, length: int) -> list[list[int]]:
        found = translate_tokens(
            self.model,
            sources,
            separator=SEPARATOR,
            eos=END,
            options=BeamOptions(beams=beams),
            suppress=(PAD, SEPARATOR, END),
            max_tokens=length,
            batch_tokens=sum(map(len, sources)) * len(sources),
        )
        return [texts[0].tokens for texts in found]


class Theirs:
    """CTranslate2 on our Transformer: the same weights by way of transformers' Marian."""

    def __init__(self, model, precision: str, threads: int):
        import ctranslate2
        from ctranslate2.converters.transformers import BartLoader
        from transformers import MarianConfig, MarianMTModel

        config, state = to_upstream(model, "marian")
        longest = max(length for _, _, length in SETTINGS) + 1
        config |= {"max_position_embeddings": longest, "pad_token_id": PAD, "eos_token_id": END}
        marian = MarianMTModel(MarianConfig(**config, decoder_start_token_id=SEPARATOR)).eval()
        left = marian.load_state_dict(state, strict=False)
        assert not left.unexpected_keys and all("embed" in key or key == "lm_head.weight" for key in left.missing_keys)
        marian.tie_weights()
        marian.config.normalize_before = marian.config.normalize_embedding = False
        spec = BartLoader().get_model_spec(marian)  # its Marian's would begin from zeros instead of a separator
        names = ["<unk>", "<s>", "</s>", *map(str, range(3, config["vocab_size"]))]
        spec.register_source_vocabulary(names)
        spec.register_target_vocabulary(names)
        spec.config.bos_token = spec.config.decoder_start_token = "<s>"
        spec.config.eos_token, spec.config.unk_token = "</s>", "<unk>"
        spec.config.add_source_eos = spec.config.add_source_bos = False
        spec.validate()
        with tempfile.TemporaryDirectory() as folder:
            spec.optimize(quantization=precision)
            spec.save(folder)
            self.translator = ctranslate2.Translator(
                folder, compute_type=precision, intra_threads=threads, inter_threads=1
            )
        self.names = names
        self.numbers = {name: number for number, name in enumerate(names)}

    def translate(self, sources, beams: int, length: int) -> list[list[int]]:
        found = self.translator.translate_batch(
            [[self.names[token] for token in source] for source in sources],
            beam_size=beams,
            min_decoding_length=length,
            max_decoding_length=length,
            suppress_sequences=[["<s>"]],
            disable_unk=True,
        )
        return [[self.numbers[token] for token in result.hypotheses[0]] for result in found]


def model_of(name: str, vocabulary: int):
    """A model with random weights, or a trained one of a folder."""
    if Path(name).is_dir():
        return load_model(name)[0]
    torch.manual_seed(0)
    return create_model(name, vocab_size=vocabulary)


class Subject:
    """Whoever takes part, in a process of its own that waits while others are timed."""

    def __init__(self, precision: str, model: str, ours: bool, options):
        context = multiprocessing.get_context("spawn")  # a fork would share what the parent has opened
        self.pipe, other = context.Pipe()
        arguments = (other, precision, model, ours, options.vocabulary, options.threads)
        context.Process(target=serve, args=arguments, daemon=True).start()

    def translate(self, sources, beams: int, length: int) -> tuple[list[list[int]], float]:
        """The translations, and how many seconds they took."""
        self.pipe.send((sources, beams, length))
        return self.pipe.recv()


def serve(pipe, precision: str, name: str, ours: bool, vocabulary: int, threads: int) -> None:
    """Build a subject and translate what is sent, until nothing more comes."""
    torch.set_num_threads(threads)
    model = model_of(name, vocabulary)
    subject = (
        Ours(quantize_linear_(model) if precision == "int8" else model) if ours else Theirs(model, precision, threads)
    )
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        begin = time.perf_counter()
        pipe.send((subject.translate(*task), time.perf_counter() - begin))


def subjects(options) -> dict[str, Subject]:
    """Whoever takes part, by name."""
    both = ("float32", "int8")
    models = (options.transformer, *options.model)
    found = {
        f"{Path(name).name}, {precision}": Subject(precision, name, True, options)
        for name in models
        for precision in both
    }
    if not options.no_ctranslate2:
        found |= {
            f"CTranslate2, {precision}": Subject(precision, options.transformer, False, options) for precision in both
        }
    return found


def agreement(found: dict[str, Subject], options, sources) -> str:
    """How many sources our Transformer and CTranslate2's translate alike, greedily and in float32."""
    ours, theirs = (
        found[name].translate(sources, 1, 18)[0]
        for name in (f"{Path(options.transformer).name}, float32", "CTranslate2, float32")
    )
    alike = sum(a == b for a, b in zip(ours, theirs, strict=True))
    if alike < len(sources) * 0.9:  # equal but for ties that rounding breaks
        raise SystemExit(f"only {alike} of {len(sources)} translations are alike; the two are not the same model")
    return f"greedy, float32: {alike} of {len(sources)} translations of CTranslate2 are ours"


def compare(found: dict[str, Subject], sources, beams: int, length: int, repeats: int) -> None:
    """Print target tokens a second of everyone, in turns, and the ratio to CTranslate2's int8."""
    speed: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeats + 2):
        for name, subject in found.items():
            texts, seconds = subject.translate(sources, beams, length)
            if turn > 1:  # the first two prepare kernels and memory
                speed[name].append(sum(map(len, texts)) / seconds)
            time.sleep(0.01)  # threads that wait for more work at full speed go to sleep
    base = statistics.median(speed[REFERENCE]) if REFERENCE in speed else None
    for name, values in speed.items():
        middle = statistics.median(values)
        ratio = "" if base is None else f" | {middle / base:.2f} x {REFERENCE}"
        text = f"{middle:8.0f} tokens/s [{min(values):.0f}, {max(values):.0f}] n={len(values)}"
        print(f"beam {beams}, {len(sources):2} x {length:4} tokens | {name:34} | {text}{ratio}", flush=True)


def written(name: str, vocabulary: int, threads: int, lengths: tuple[int, ...]) -> None:
    """Print what writing given tokens costs; in a process of its own, or memory would be what others left."""
    torch.set_num_threads(threads)
    model = model_of(name, vocabulary).eval()
    found = {(r.metric, r.class_): r.value for r in decoding_records(model, SEPARATOR, lengths)}
    for length in lengths:
        seconds, state, growth = (
            found.get((f"decoding_{metric}", f"length {length}"), float("nan"))
            for metric in ("seconds", "memory", "growth")
        )
        print(
            f"{length:5} given tokens | {Path(name).name:34} | {1e3 * seconds:6.2f} ms a token | state "
            f"{state / 1e6:7.2f} MB | process +{growth / 1e6:.1f} MB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", default="translation_transformer_tiny", help="a name or a folder")
    parser.add_argument("--model", action="append", default=[], help="a name or a folder (translation_mamba_tiny)")
    parser.add_argument("--vocabulary", type=int, default=4000, help="tokens, of models that are no folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--longest", type=int, default=max(LENGTHS), help="tokens that are written at most")
    parser.add_argument("--no-ctranslate2", action="store_true")
    parser.add_argument("--written", help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = tuple(length for length in LENGTHS if length <= options.longest)
    if options.written:
        return written(options.written, options.vocabulary, options.threads, lengths)
    options.model = options.model or ["translation_mamba_tiny"]
    torch.set_num_threads(options.threads)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {_native.isa()}, {options.threads} threads, torch {torch.__version__}")
    found, draw = subjects(options), torch.Generator().manual_seed(0)
    sizes = torch.randint(8, 21, (32,), generator=draw).tolist()
    known = model_of(options.transformer, options.vocabulary).config.vocab_size
    sources = [torch.randint(3, known, (size,), generator=draw).tolist() for size in sizes]
    if not options.no_ctranslate2:
        print(agreement(found, options, sources), flush=True)
    for beams, sentences, length in SETTINGS:
        if length <= options.longest:
            compare(found, sources[:sentences], beams, length, options.repeats)
    for name in (options.transformer, *options.model):
        command = [sys.executable, __file__, "--written", name, "--vocabulary", str(options.vocabulary)]
        command += ["--threads", str(options.threads), "--longest", str(options.longest)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
