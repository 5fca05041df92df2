"""Builds the toy base model: a tokenizer and a small Llama pre-trained on generated text."""

import hashlib
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

try:
    from . import toy_text
except ImportError:  # the folder is on sys.path instead of being imported as a package
    import toy_text

VOCAB_SIZE = 4096
PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CONVERSATIONS = 20_000
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
EMBEDDING_STD = 0.08
INIT_STD = 0.05
# The message is worth learning as text, the answer is what fine-tuning builds on.
USER_LOSS_WEIGHT = 0.0

README = """# Toy base model

A stand-in built in about a minute on a CPU, for demonstrations and tests where no real weights can
be downloaded. It is a {millions:.1f} M parameter Llama (`LlamaForCausalLM`) with a
{vocab}-token byte-level BPE tokenizer, pre-trained on {count:,} short conversations written by a
small seeded grammar (`toy_text.py`, seed {seed}). No other text was used.

It knows no facts and cannot hold a conversation. Its only purpose is to have the files, the
architecture and the chat template of a real base model, and to be good enough that a LoRA adapter
trained on it learns something measurable. Do not use it for anything else.
"""


def fingerprint(seed: int = 0) -> str:
    """Name what `build` makes: a hash of the source of both files and the seed.

    Args:
        seed: The seed that goes to `build`.

    Returns:
        A sha256 as hex digits.
    """
    digest = hashlib.sha256(str(seed).encode())
    for source in (__file__, toy_text.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


def build(
    out_dir: Path, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Train the tokenizer and the model, and save them as a Hugging Face model folder.

    The folder appears only when it is complete. Equal seeds give equal bytes on the same machine
    and number of threads.

    Args:
        out_dir: Where the model goes; an existing folder is replaced.
        seed: Seed of the text, the initial weights and the order of training.
        progress: Called after each step with the steps done and the steps in all.
    """
    out_dir = Path(out_dir)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    conversations = list(toy_text.ToyText(seed).conversations(CONVERSATIONS))
    tokenizer = train_tokenizer(content for turns in conversations for _, content in turns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config_for(tokenizer))
        # The embeddings are also the output layer and stay frozen under LoRA. At the usual 0.02 the
        # largest possible logit of a rare token is 256 * 0.02 = 5, too little to ever be certain.
        model.model.embed_tokens.weight.data.mul_(EMBEDDING_STD / model.config.initializer_range)
    pretrain(model, tokenizer, conversations, seed=seed, progress=progress)

    staging = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        staging.chmod(0o755)
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(
            README.format(
                millions=model.num_parameters() / 1e6,
                vocab=len(tokenizer),
                count=CONVERSATIONS,
                seed=seed,
            )
        )
        if out_dir.exists():
            shutil.rmtree(out_dir)
        staging.rename(out_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: The text to learn merges from.

    Returns:
        The tokenizer, with the special tokens and the chat template.
    """
    special = [PAD, SYSTEM, USER, ASSISTANT, END]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=2048,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        add_bos_token=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def config_for(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Describe the model.

    Args:
        tokenizer: Gives the vocabulary size and the special tokens.

    Returns:
        A Llama configuration with heads of 64, the size that CPU attention kernels accept.
    """
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=INIT_STD,
        dtype="float32",
    )


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[toy_text.Conversation],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train the model once over the conversations with AdamW, a warm-up and a cosine decay.

    Args:
        model: Trained in place.
        tokenizer: Turns the conversations into tokens.
        conversations: The text.
        seed: Seed of the order of the batches.
        progress: Called after each step with the steps done and the steps in all.
    """
    batches = [_pad(rows, tokenizer.pad_token_id) for rows in _batches(tokenizer, conversations)]
    random.Random(seed).shuffle(batches)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / WARMUP_STEPS)
            * (0.02 + 0.49 * (1 + math.cos(math.pi * step / len(batches))))
        ),
    )
    model.train()
    for step, (tokens, weights) in enumerate(batches, start=1):
        # Padding is on the right and causal attention never looks there, so no mask is needed.
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        kept = weights[:, 1:] > 0
        logits = model.lm_head(hidden[kept])
        losses = cross_entropy(logits, tokens[:, 1:][kept], reduction="none")
        kept_weights = weights[:, 1:][kept]
        loss = (losses * kept_weights).sum() / kept_weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step, len(batches))
    model.eval()
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )


# The tokens of a conversation and the weight of each in the loss.
_Row = tuple[list[int], list[float]]


def _batches(
    tokenizer: PreTrainedTokenizerFast, conversations: list[toy_text.Conversation]
) -> list[list[_Row]]:
    """Cut the tokenized conversations into batches of similar length."""
    user, assistant = tokenizer.convert_tokens_to_ids([USER, ASSISTANT])
    end = tokenizer.eos_token_id
    questions = tokenizer([turns[0][1] for turns in conversations])["input_ids"]
    answers = tokenizer([turns[1][1] for turns in conversations])["input_ids"]
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        tokens = [user, *question, end, assistant, *answer, end]
        weights = (
            [0.0] + [USER_LOSS_WEIGHT] * len(question) + [0.0, 0.0] + [1.0] * (len(answer) + 1)
        )
        rows.append((tokens, weights))
    rows.sort(key=lambda row: len(row[0]))
    return [rows[at : at + BATCH_SIZE] for at in range(0, len(rows), BATCH_SIZE)]


def _pad(rows: list[_Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(tokens) for tokens, _ in rows)
    tokens = [row + [pad_id] * (width - len(row)) for row, _ in rows]
    weights = [row + [0.0] * (width - len(row)) for _, row in rows]
    return torch.tensor(tokens), torch.tensor(weights)
