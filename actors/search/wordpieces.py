"""WordPieces: texts as the token ids that BERT-like encoders, and the bag of pieces that imitates them, are made for.

The vocabulary is carried as a data file, because the package that carries the default model has none.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Read by the library at each call. Its threads would come on top of those the operator allows this process.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

VOCABULARY: Final = Path(__file__).parent / "data" / "wordpieces.txt"
"""BERT base uncased: 30,522 pieces, which all-MiniLM-L6-v2 uses."""

REMEMBERED: Final = 1 << 16
"""Words whose pieces are kept; a question is put together from them in a fifth of the time that cutting it takes."""

LONGEST_WORD: Final = 100
"""Characters of a word that has pieces; longer ones are unknown as a whole, and not worth remembering."""

MAX_CHARS: Final = 20_000
"""Characters of a text that are read; ten times what any encoder takes in."""


_WORD: Final = re.compile(r"[a-z0-9]+|[^a-z0-9\s]")
"""Of printable ASCII in lower case, where every mark stands alone."""


class WordPieces:
    """Cuts texts into pieces.

    Args:
        source: a `tokenizer.json`, or a vocabulary with one piece a line, uncased.
        max_tokens: longest sequence, the tokens around it included.
    """

    def __init__(self, source: Path = VOCABULARY, *, max_tokens: int = 256) -> None:
        self._max_tokens = max_tokens
        # Of any other tokenizer it is not known what it takes for a word.
        self._by_words = source.suffix != ".json"
        self._pieces_of = functools.lru_cache(REMEMBERED)(self._cut)
        if source.suffix == ".json":
            self._tokenizer = Tokenizer.from_file(str(source))
            self._tokenizer.no_padding()
        else:
            self._tokenizer = _bert(source)
        self._tokenizer.enable_truncation(max_tokens)

    def __len__(self) -> int:
        """Pieces in the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids as a model takes them in: cut to the longest sequence, with the tokens that open and close it."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast([_clean(text) for text in texts])]

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the pieces alone, cut to the longest sequence."""
        found: list[list[int] | None] = [None] * len(texts)
        if self._by_words:
            for place, text in enumerate(texts):
                # Nothing to fold and nothing to leave out: so a word's pieces are its own, whatever stands beside it.
                if len(text) <= MAX_CHARS and text.isascii() and text.isprintable():
                    words = _WORD.findall(text.lower())
                    found[place] = [
                        piece
                        for word in words
                        for piece in (self._pieces_of if len(word) <= LONGEST_WORD else self._cut)(word)
                    ]
        others = [_clean(text) for text, pieces in zip(texts, found, strict=True) if pieces is None]
        cut = iter(self._tokenizer.encode_batch_fast(others, add_special_tokens=False) if others else ())
        return [next(cut).ids if pieces is None else pieces[: self._max_tokens] for pieces in found]

    def _cut(self, word: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(word, add_special_tokens=False).ids)

    def around(self, piece: int) -> list[int]:
        """The sequence of a single piece."""
        opening, closing = self.sequences([""])[0]
        return [opening, piece, closing]


@functools.cache
def default() -> WordPieces:
    """The carried vocabulary; loading it takes 0.1 s, so it is done once a process."""
    return WordPieces()


def _bert(vocabulary: Path) -> Tokenizer:
    ids = {piece: number for number, piece in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))  # noqa: S106 - no password
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def _clean(text: str) -> str:
    # Lone surrogates have no UTF-8.
    return text[:MAX_CHARS].encode("utf-8", "replace").decode("utf-8")
