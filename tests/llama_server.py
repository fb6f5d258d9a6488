"""A real llama.cpp server with a toy vision model that is written on the spot.

    with LlamaServer(tmp_path) as server:
        ...  # server.base_url, server.model

The model is a real GGUF language model with a real projector, 360 kB of float32 in all, whose
weights are set by hand: whatever it is asked, it says " red picture", " green picture",
" blue picture" or, where no channel leads or there is no picture, " grey picture", by the mean
colour of the pixels that it got, and it closes the quotes and braces that a grammar asks for.
So the server's own image decoding, tokenizer, chat template and grammar are at work, and an answer
proves that the pixels arrived. (A picture that is not square is padded with a warm grey, which
leads to red in one that has no colour of its own.)

Needs `xllamacpp` (the server) and `gguf` (the file format), both from PyPI.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

#: What the model can say of a picture, by the channel that leads in it; the last where none does.
COLOURS = ("red", "green", "blue", "grey")
#: Its whole answer, where the answer's form is left to it.
SAYS = {colour: f" {colour} picture" for colour in COLOURS}

_CHANNELS = 3
_WIDTH = 64
_VISION_WIDTH = 32
_HIDDEN = 32
_PATCH = 14
_IMAGE = 28

# The vocabulary: what a SentencePiece tokenizer with byte fallback needs, and a few words.
_WORDS = ["▁", *(f"▁{colour}" for colour in COLOURS), "▁picture", '{"']
_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
_EOS = _TOKENS.index("</s>")

_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}\n{% endif %}"
)

#: What comes after a token of a kind, best first; a grammar takes the first that it allows.
#: `*` stands for the word of the picture's colour.
_NEXT: dict[str, list[str]] = {
    "line": ["*", '{"'],
    "colour": ["▁picture", '"'],
    "picture": ["</s>", '"'],
    "open": ["1"],
    "quote": ["*", *"123456789", "0", ":", "}", ","],
    "digit": ['"', *"0123456789"],
    "colon": ['"'],
    "comma": ['"'],
    "brace": ['"'],
    "end": ["</s>"],
    "other": ["</s>", '"'],
}
_KINDS = list(_NEXT)
_KIND_OF = {
    "\n": "line",
    **{f"▁{colour}": "colour" for colour in COLOURS},
    "▁picture": "picture",
    '{"': "open",
    '"': "quote",
    **dict.fromkeys("0123456789", "digit"),
    ":": "colon",
    ",": "comma",
    "{": "brace",
    "}": "end",
}


def _token(piece: str) -> int:
    """The number of a word, of a special token, or of a character's byte."""
    return _TOKENS.index(piece) if piece in _TOKENS else _TOKENS.index(f"<0x{ord(piece):02X}>")


def _kind_dimension(kind: str) -> int:
    """Where in the hidden state a kind of token stands; the first three hold the colour."""
    return _CHANNELS + _KINDS.index(kind)


def token_embeddings() -> Array:
    """Each token as its kind, one-hot; shape (tokens, width)."""
    rows = np.zeros((len(_TOKENS), _WIDTH), np.float32)
    rows[:, _kind_dimension("other")] = 1
    for piece, kind in _KIND_OF.items():
        rows[_token(piece)] = 0
        rows[_token(piece), _kind_dimension(kind)] = 1
    return rows


def output_rows() -> Array:
    """What each token's logit takes from the hidden state; shape (tokens, width)."""
    rows = np.zeros((len(_TOKENS), _WIDTH), np.float32)
    words = [_token(f"▁{colour}") for colour in COLOURS]
    for kind, pieces in _NEXT.items():
        # A colour is never the word by its picture alone, only where a word is due.
        rows[words, _kind_dimension(kind)] = -100_000
        for rank, piece in enumerate(pieces):
            tokens = words if piece == "*" else [_token(piece)]
            rows[tokens, _kind_dimension(kind)] = 100 - rank
    for channel in range(_CHANNELS):
        # Much, because the picture is four places among the hundreds of a prompt.
        rows[words[:_CHANNELS], channel] = -2000
        rows[words[channel], channel] = 4000
    # A word that is due all the same where no channel leads.
    rows[words[-1], _kind_dimension("line")] += 1
    rows[words[-1], _kind_dimension("quote")] += 1
    return rows


def language_tensors() -> dict[str, Array]:
    """The weights: attention is even (no queries, no keys) and carries nothing but the colour."""
    colour = np.zeros((_WIDTH, _WIDTH), np.float32)
    colour[range(_CHANNELS), range(_CHANNELS)] = 1
    nothing = np.zeros((_WIDTH, _WIDTH), np.float32)
    ones = np.ones(_WIDTH, np.float32)
    return {
        "token_embd.weight": token_embeddings(),
        "output.weight": output_rows(),
        "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": nothing,
        "blk.0.attn_k.weight": nothing,
        "blk.0.attn_v.weight": colour,
        "blk.0.attn_output.weight": colour,
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": np.zeros((_HIDDEN, _WIDTH), np.float32),
        "blk.0.ffn_up.weight": np.zeros((_HIDDEN, _WIDTH), np.float32),
        "blk.0.ffn_down.weight": np.zeros((_WIDTH, _HIDDEN), np.float32),
    }


def vision_tensors() -> dict[str, Array]:
    """A projector that gives each patch's mean colour, in the first three places."""
    patch = np.zeros((_VISION_WIDTH, 3, _PATCH, _PATCH), np.float32)
    patch[range(_CHANNELS), range(_CHANNELS)] = 1 / _PATCH**2
    widen = np.zeros((_WIDTH, _VISION_WIDTH), np.float32)
    # Times ten: there a GELU between the two layers is as good as none.
    widen[range(_CHANNELS), range(_CHANNELS)] = 10
    tensors = {
        "v.patch_embd.weight": patch,
        "v.position_embd.weight": np.zeros(((_IMAGE // _PATCH) ** 2, _VISION_WIDTH), np.float32),
        "mm.0.weight": widen,
        "mm.0.bias": np.zeros(_WIDTH, np.float32),
        "mm.2.weight": np.eye(_WIDTH, dtype=np.float32),
        "mm.2.bias": np.zeros(_WIDTH, np.float32),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_down", "ffn_up", "ln1", "ln2"):
        shape = (_VISION_WIDTH,) if name.startswith("ln") else (_VISION_WIDTH, _VISION_WIDTH)
        tensors[f"v.blk.0.{name}.weight"] = np.zeros(shape, np.float32)
        tensors[f"v.blk.0.{name}.bias"] = np.zeros(_VISION_WIDTH, np.float32)
    return tensors


def _write(writer: Any, tensors: Mapping[str, Array]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_language_model(path: Path) -> Path:
    """Write the language model's GGUF file."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_TOKENS)
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(_WORDS))])
    kinds = gguf.TokenType
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*special, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(_WORDS)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_EOS)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_TEMPLATE)
    _write(writer, language_tensors())
    return path


def write_projector(path: Path) -> Path:
    """Write the GGUF file of what turns pixels into the language model's terms."""
    import gguf

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    for name, value in {
        "image_size": _IMAGE,
        "patch_size": _PATCH,
        "embedding_length": _VISION_WIDTH,
        "feed_forward_length": _VISION_WIDTH,
        "projection_dim": _WIDTH,
        "block_count": 1,
        "attention.head_count": 2,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.0, 0.0, 0.0])
    writer.add_array("clip.vision.image_std", [1.0, 1.0, 1.0])
    _write(writer, vision_tensors())
    return path


class LlamaServer:
    """The server with the toy model in a child process, which ends when this process does.

    `folder` takes the two files. `vision=False` leaves the projector out: images get a 500.
    """

    def __init__(
        self, folder: Path, *, slots: int = 4, api_key: str | None = None, vision: bool = True
    ) -> None:
        #: What to ask for; the server does not mind, and answers with its own name for it.
        self.model = "toy"
        model = write_language_model(folder / "toy.gguf")
        projector = write_projector(folder / "toy-projector.gguf") if vision else ""
        command = [sys.executable, str(Path(__file__).resolve()), str(model), str(projector)]
        self.process = subprocess.Popen(
            [*command, str(slots), api_key or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        address = self.process.stdout.readline().strip()
        if not address.startswith("http"):
            self.close()
            raise RuntimeError("the llama.cpp server did not start; its reason is on stderr")
        self.base_url = f"{address}/v1"

    def close(self) -> None:
        """End it, with requests in flight too."""
        self.process.kill()
        self.process.communicate(timeout=30)

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(model: str, projector: str, slots: int, api_key: str) -> None:
    """Serve in this process until stdin ends; the first line printed is the address."""
    # Imported by name: the package has no types.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    options = xllamacpp.CommonParams()
    options.model.path = model
    if projector:
        options.mmproj.path = projector
    if api_key:
        options.api_keys = [api_key]
    options.n_parallel = slots
    options.n_ctx = 4096 * slots
    options.cpuparams.n_threads = 1
    options.warmup = False
    options.port = 0
    options.verbosity = 0
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    # Taking the server down while it has a request in flight never returns.
    os._exit(0)


def main(arguments: Sequence[str]) -> None:
    """Serve the model of the arguments: model, projector, slots, key."""
    model, projector, slots, api_key = arguments
    serve(model, projector, int(slots), api_key)


if __name__ == "__main__":
    main(sys.argv[1:])
