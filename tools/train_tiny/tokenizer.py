"""Makes the tokenizer of the embedded tiny text encoder: ``ltx2rt/embedded/text_encoder/tokenizer.json``.

Byte-pair encoding over a short word list of ours (colours, shapes, motions, everyday English) with byte fallback, and
Gemma's special ids: pad 0, eos 1, bos 2, unk 3. Text is lower-cased, every word carries its leading space (the first
one too), and punctuation and digits stand alone. Running the tool again writes the same bytes.

    python -m tools.train_tiny.tokenizer [OUTPUT]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUTPUT = Path(__file__).parents[2] / "ltx2rt" / "embedded" / "text_encoder" / "tokenizer.json"

MAX_VOCABULARY = 1152
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
SPACE = "\u2581"
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()" + SPACE

# What clips of the tiny model are about. Every word of both lists becomes a single token.
SUBJECTS = """
    red green blue yellow orange purple pink white black grey brown cyan magenta gold silver dark light bright pale
    circle square triangle ball box star ring cross line dot disc bar diamond heart cube stripe shape shapes
    moves moving move slides bounces bouncing spins spinning rotates rotating grows growing shrinks shrinking falls
    falling rises rising jumps blinks blinking fades flies drifts swings stops waits turns rolls pulses still
    left right up down top bottom centre corner side across around over under between behind front through
    slowly fast quickly smoothly small large big tiny huge thin wide tall short round soft loud quiet high low
    background backdrop screen wall block wedge dot disc leftward rightward upward upwards downward downwards towards
    glides travels goes rests remains place flat colours does against clip stays above simple smooth
    tone tones beep hum click noise sound sounds music silence pitch note rhythm wave waves
"""
# Common words, so that ordinary prompts do not fall apart into letters.
ENGLISH = """
    a an the and or but with without of in on at to from by for as into onto near is are was be has have it its this
    that there then while when after before again not no all some one two three four five many few more most very
    man woman person people child dog cat bird horse fish tree flower grass forest river lake sea ocean beach mountain
    hill sky sun moon cloud clouds rain snow wind fire smoke water stone sand city street road house room door window
    table chair car train boat ship plane bridge lighthouse cliff garden field night day morning evening dusk dawn
    walks walking runs running stands sits looks opens closes holds plays sings speaks says talks laughs
    camera shot scene video view close zoom pan slow motion static cinematic realistic style film photo image
    old young new warm cold beautiful clear blurry distorted quality robotic voice softly gently crash below violin
    piano guitar drum bell song face hand eyes hair shirt coat hat wearing glass wood metal paper colour colours
"""
WORDS = [*SUBJECTS.split(), *ENGLISH.split()]


def learned_merges(words: list[str], count: int) -> list[tuple[str, str]]:
    """The first ``count`` merges of byte-pair encoding trained on ``words``."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=len(ALPHABET) + count,
        initial_alphabet=list(ALPHABET),
        limit_alphabet=len(ALPHABET),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SPACE + word for word in words], trainer)
    return [(a, b) for a, b in json.loads(tokenizer.to_str())["model"]["merges"]]


def build() -> Tokenizer:
    """The tokenizer, with ids in the order special, bytes, alphabet, merges."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *ALPHABET]
    merges = learned_merges(WORDS, MAX_VOCABULARY - len(pieces))
    pieces += [a + b for a, b in merges]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), SPACE),
            normalizers.Prepend(SPACE),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(build().to_str(pretty=False), encoding="utf-8")


if __name__ == "__main__":
    main()
