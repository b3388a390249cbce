"""Makes regress/oracle/bpe.h: merges that Hugging Face tokenizers trains on a small text, and how it encodes another.

Needs tokenizers; run from the checkout: python regress/oracle/bpe.py > regress/oracle/bpe.h
Token ids are written as tlaw's: 0..255 the bytes, then the merges in order.
"""
import json

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

VOCAB = 512
TEXT = (
    "A scaling law says how the loss falls when the data grows; it doesn't say why. We've seen that it's a straight "
    "line in the logarithms, that they're parallel for models of one kind, and that I'd better not trust the last "
    "point. You'll ask what the slope means: the slope is the exponent, the exponent is (they say) the smoothness "
    "over the dimension, and the dimension is that of the text.\n\n"
    "    for (int i = 0; i < 10; i++)\n        total += loss[i] * 1234567890;\n\treturn total / 10.0;\n\n"
    "SELECT study, train_tokens, test_loss FROM runs WHERE train_tokens >= 100000 ORDER BY test_loss;\n"
    "Der Verlust fällt mit der Menge der Daten, und die Steigung heißt Exponent. La perte décroît avec les données. "
    "Потери уменьшаются с ростом данных. 損失はデータが増えると減少する。 손실은 데이터가 늘어나면 줄어든다。 "
    "Η απώλεια μειώνεται όταν αυξάνονται τα δεδομένα. الخسارة تنخفض مع زيادة البيانات. हानि घटती है।\n"
)
OTHER = (
    "The last slope wasn't trusted: it's 0.0951, they'll say, and we're done.   Three spaces,\ttabs \t and\r\nlines.\n\n\n"
    "   indented 'quoted' 'S 'RE don''t 'llama 've\n  x = total[42] != 1e-5 && ~flag; // comment !!!??? ...\n"
    "naïve façade, e\u0301 combining, \u00bd ² ③ Ⅻ ٣ numbers, no-break\u00a0space, ideographic\u3000space, em\u2003space. "
    "emoji 😀👩‍👩‍👧 and flags 🇩🇪; \u200bzero width; \u2019s curly; ℵ₀ ∑ √ math; 日本語のデータ 12３ 데이터 Данные данные δεδομένα "
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa "
    "-----------------------------------------------------------------------------------------------------------\n"
    "thethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethe 1"
    "2345678901234567890123456789012345678901234567890123456789012345678901234567890  \n \n  end \n"
)


def char_to_byte():
    """The printable stand-in of every byte in GPT-2's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(rest)}}


def train():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    t.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=VOCAB - 1, min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def ids_of(merges):
    """tlaw's id of every token of Hugging Face's."""
    bytes_of = char_to_byte()
    return {**bytes_of, **{a + b: 256 + i for i, (a, b) in enumerate(merges)}}


def table(type_name, name, values):
    print(f"\nstatic const {type_name} {name}[] = {{")
    for i in range(0, len(values), 16):
        print("    " + ", ".join(str(v) for v in values[i:i + 16]) + ",")
    print("};")


def main():
    t = train()
    merges = [tuple(m) for m in json.loads(t.to_str())["model"]["merges"]]
    ids = ids_of(merges)
    print(f"/* Made by bpe.py with Hugging Face tokenizers {tokenizers.__version__}; do not edit. */")
    print(f"#define ORACLE_MERGES {len(merges)}")
    table("uint8_t", "oracle_text", list(TEXT.encode()))
    table("uint8_t", "oracle_other", list(OTHER.encode()))
    table("uint16_t", "oracle_merges", [ids[x] for m in merges for x in m])
    table("uint16_t", "oracle_text_tokens", [ids[x] for x in t.encode(TEXT).tokens])
    table("uint16_t", "oracle_other_tokens", [ids[x] for x in t.encode(OTHER).tokens])


main()
